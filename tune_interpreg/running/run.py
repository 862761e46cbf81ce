"""The stages of `run`: check the data, open the store, drain the graph, report."""

from __future__ import annotations

import logging
import os
import shlex
import socket
from collections.abc import Callable
from contextlib import nullcontext

from rich.console import Console
from rich.text import Text

from tune_interpreg import stopping
from tune_interpreg.display.account import Account
from tune_interpreg.display.console import Lines, Live
from tune_interpreg.running.logs import ItemLog, log_to_file
from tune_interpreg.running.preflight import check_data
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.search.target import MissingLoss
from tune_interpreg.stopping import Stop
from tune_interpreg.store import lock
from tune_interpreg.store.files import Damaged, raise_refused
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.problems import StudyError

logger = logging.getLogger(__name__)

DONE, INCOMPLETE = 0, 1


def run(
    file: StudyFile,
    store: Store,
    *,
    where: str,
    console: Console,
    report: Callable[[], object] = lambda: None,
    retry_failed: bool = False,
    live: bool = True,
    debug: bool = False,
) -> int:
    """Run all open items of a study, then report. Returns the exit code.

    where: a place to run (see ``cluster.drain``). report: prints the results of a study that has no open item.
    retry_failed: run failed items again. live: show a live tree if the console is a terminal. debug: run in this
    process, and raise an item's exception.

    Raises ``StudyError`` or ``StoreError`` before anything is written, also if another driver holds the store;
    ``ClusterError`` before anything runs; ``StudyError`` after the first training that lacks a loss to match;
    ``Refused`` if the disk is full or another driver took over.
    """
    with raise_refused(store.path):
        _check_store(file.study, store)
    with pause_gc():
        fingerprint = check_data(file).fingerprint
    with raise_refused(store.path), lock.hold(store), log_to_file(store.log_file):
        damaged = _check_store(file.study, store)  # again, because another driver may have made it in the meantime
        store.check_access()
        lock.sign(store)
        logger.info("driver %d on %s: %s --cluster %s", os.getpid(), socket.gethostname(), file.study.name, where)
        try:
            dispatcher = _open_study(file.study, store, damaged, fingerprint, retry_failed, console)
            stop, account = None, None
            if dispatcher.is_open():
                stop, account = _drain(dispatcher, where, console, live=live and not debug, debug=debug)
                store.remove_leftovers()  # of workers that died in this run
        except MissingLoss as error:
            raise StudyError([file.locate(error.place, error.message)]) from None
        except BaseException:
            logger.exception("the run ended early")
            raise
        if stop and dispatcher.is_open():
            logger.warning("stopped by %s", stop.signal.name)
            path = shlex.quote(str(store.path))
            _print_line(console, f"{stopping.RUN_AGAIN}; tune-interpreg report {path} prints the tables so far")
            return stop.code
        with pause_gc():
            report()
        return _finish(dispatcher, account, console)


def _open_study(
    study: Study, store: Store, damaged: Damaged | None, fingerprint: str, retry_failed: bool, console: Console
) -> Dispatcher:
    """Repair the store, write the study to it, and return the dispatcher of what is open."""

    def say(line: str) -> None:
        logger.warning(line)
        _print_line(console, line)

    store.remove_leftovers()
    if damaged:
        say(f"{store.set_aside(damaged)}; it is written again")
    if retry_failed:
        say(f"{store.delete_failures()} failed items run again")
    with pause_gc():
        dispatcher = Dispatcher(study, store, fingerprint, say)
    store.save_study(study)
    return dispatcher


def _check_store(study: Study, store: Store) -> Damaged | None:
    """Return what is wrong with the store's own study file, if anything. Raises ``StoreError`` for another study's."""
    try:
        store.check_setting(study)
    except Damaged as error:
        return error
    return None


def _drain(dispatcher: Dispatcher, where: str, console: Console, *, live: bool, debug: bool) -> tuple[Stop, Account]:
    """Run all open items. Returns how the run ended, and an account of its time."""
    settled, total = dispatcher.settled(), dispatcher.total()
    path = shlex.quote(str(dispatcher.store.path))
    _print_line(console, f"{dispatcher.study.name}: {settled} of {total} parts are in {path}")
    logger.info("%d of %d parts are done", settled, total)
    tree = Live(console, dispatcher.study, dispatcher.state) if live and console.is_terminal else None
    with pause_gc():  # a finished study does without these imports, which take a second
        from tune_interpreg.cluster.drain import drain
    account = Account()
    dispatcher.listeners = [ItemLog(), account, tree or Lines(console)]
    with tree or nullcontext():
        return drain(dispatcher, where, debug=debug), account


def _finish(dispatcher: Dispatcher, account: Account | None, console: Console) -> int:
    """Print where the results lie, where the time went and what is missing. Returns the exit code."""
    store = dispatcher.store
    path = shlex.quote(str(store.path))
    _print_line(console, f"tables       {shlex.quote(str(store.report_dir))}")
    _print_line(console, f"page         tune-interpreg report {path}")
    _print_line(console, f"TensorBoard  tune-interpreg tensorboard {path}")
    _print_line(console, f"log          {shlex.quote(str(store.log_file))}")
    if account and (summary := account.summary()):
        _print_line(console, f"time         {summary}")
    failed = [record for record in dispatcher.records.values() if record["state"] == "failed"]
    if failed:
        _print_line(console, f"{len(failed)} items failed; --retry-failed runs them again")
    blocked = graph.blocked_arms(dispatcher.study, dispatcher.state)
    for arm, reason in blocked.items():
        _print_line(console, f"{arm} {reason}")
    logger.info("driver ends: %d of %d parts done, %d failed", dispatcher.settled(), dispatcher.total(), len(failed))
    return INCOMPLETE if failed or blocked else DONE


def _print_line(console: Console, line: str) -> None:
    """Print a line exactly: paths and error texts are no markup, and are not wrapped."""
    console.print(Text(line), soft_wrap=True)
