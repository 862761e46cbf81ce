"""The stages of `run`: check the data, open the store, drain the graph, report."""

import logging
import os
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial

from rich.console import Console
from rich.text import Text

from tune_interpreg import stopping
from tune_interpreg.display.account import Account
from tune_interpreg.display.console import Lines, make_live
from tune_interpreg.networks.build import EXACT
from tune_interpreg.running.logs import JobLog, log_to_file
from tune_interpreg.running.preflight import check_data, check_networks
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.running.versions import list_untested
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.plugins import list_changed_code
from tune_interpreg.search.target import MissingLoss
from tune_interpreg.store import lock
from tune_interpreg.store.bucket import connect
from tune_interpreg.store.files import Damaged, raise_refused
from tune_interpreg.store.mirror import check_study, mirrored
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.problems import StudyError
from tune_interpreg.trackers.processes import TrackerProcesses
from tune_interpreg.trackers.tracker import check_trackers

logger = logging.getLogger(__name__)


def run(
    file: StudyFile,
    store: Store,
    *,
    where: str,
    console: Console,
    report: Callable[[Sequence[Record]], object] = lambda records: None,
    retry_failed: bool = False,
    track: Sequence[str] = (),
    live: bool = True,
    debug: bool = False,
    mirror: str | None = None,
) -> int:
    """Run all open items of a study, then report. Returns the exit code.

    where: a place to run (see ``cluster.drain``). report: prints the results of a study that has no open item, from the
    records of the store. retry_failed: run failed items again. track: names of trackers, which receive what this run
    adds to the store. live: show a live tree if the console is a terminal. debug: see ``drain``. mirror: URL of a copy
    of the store, which is kept up to date and supplies what the store lacks.

    Raises ``StudyError``, ``StoreError`` or ``TrackerError`` before anything is written, also if another driver holds
    the store or the mirror; ``ClusterError`` before anything runs; ``StudyError`` after the first training that lacks a
    loss to match; ``Refused`` if the disk is full, another driver took over, or the mirror lacks files in the end.
    """
    check_trackers(track)
    with raise_refused(store.path), suppress(Damaged):  # which is repaired below
        store.check_setting(file.study)
    bucket = connect(mirror) if mirror else None
    if bucket:
        check_study(bucket, file.study)
    with pause_gc():
        images = check_data(file)
        networks = check_networks(file, images)
    path = shlex.quote(str(store.path))
    mirroring = mirrored(store, bucket, partial(_say, console))
    with raise_refused(store.path), lock.hold(store), mirroring, log_to_file(store.log_file):
        try:
            dispatcher = _open_study(file.study, store, where, images.fingerprint, retry_failed, console)
            stop, account = None, Account()
            trackers = TrackerProcesses(track, store, partial(_say, console))
            if dispatcher.is_open():
                _announce(dispatcher, images.description, networks, console)
                with pause_gc():  # a finished study does without these imports, which take a second
                    from tune_interpreg.cluster.drain import drain
                tree = make_live(console, file.study, lambda: dispatcher.state) if live and not debug else None
                dispatcher.listeners = [JobLog(), account, tree or Lines(console), trackers]
                with tree or nullcontext(), trackers:
                    stop = drain(dispatcher, where, debug=debug)
                store.remove_leftovers()  # of workers that died in this run
        except MissingLoss as error:
            raise StudyError([file.locate(error.place, error.message)]) from None
        except BaseException:
            logger.exception("the run ended early")
            raise
        if stop and dispatcher.is_open():
            logger.warning("stopped by %s", stop.signal.name)
            _say(console, f"{stopping.RUN_AGAIN}; tune-interpreg report {path} prints the tables so far")
            return stop.code
        with pause_gc():
            report(dispatcher.records)
        for line in trackers.wait():
            _say(console, line, logging.INFO)
        return _finish(dispatcher, account, console)


def _open_study(
    study: Study, store: Store, where: str, fingerprint: str, retry_failed: bool, console: Console
) -> Dispatcher:
    """Take over and repair the store, write the study to it, and return the dispatcher of what is open."""
    say, damaged = partial(_say, console), None
    try:  # again, because another driver may have made the store in the meantime
        store.check_setting(study)
    except Damaged as error:
        damaged = error
    store.check_access()
    lock.sign(store)
    logger.info("driver %d on %s: %s --cluster %s", os.getpid(), socket.gethostname(), study.name, where)
    store.remove_leftovers()
    if damaged:
        say(f"{store.set_aside(damaged)}; it is written again")
    if retry_failed:
        say(f"{store.delete_failures()} failed items run again")
    with pause_gc():
        dispatcher = Dispatcher(study, store, fingerprint, say)
    for line in list_changed_code(dispatcher.progress.counting_records()):
        say(line)
    store.save_study(study)
    return dispatcher


def _announce(dispatcher: Dispatcher, description: str, networks: Mapping[str, str], console: Console) -> None:
    """Say what a run begins with: images, networks without exact gradients, settled parts, untested libraries.

    description: of the images. networks: as ``check_networks`` returns them.
    """
    study, path = dispatcher.study, shlex.quote(str(dispatcher.store.path))
    if description:
        _say(console, description, logging.INFO)
    for model, gradients in networks.items():
        if gradients != EXACT:
            _say(console, f"model {model}, gradients at the images: {gradients}")
    _say(console, f"{study.name}: {dispatcher.settled()} of {dispatcher.total()} parts are in {path}", logging.INFO)
    for line in list_untested():
        _say(console, line)


def _finish(dispatcher: Dispatcher, account: Account, console: Console) -> int:
    """Print where the results lie, where the time went and what is missing. Returns the exit code."""
    store, path = dispatcher.store, shlex.quote(str(dispatcher.store.path))
    failed = sum(record["state"] == "failed" for record in dispatcher.progress.counting_records())
    blocked = graph.blocked_arms(dispatcher.study, dispatcher.state)
    lines = [
        f"tables       {shlex.quote(str(store.report_dir))}",
        f"page         tune-interpreg report {path}",
        f"TensorBoard  tune-interpreg tensorboard {path}",
        f"log          {shlex.quote(str(store.log_file))}",
    ]
    if summary := account.summary():
        lines.append(f"time         {summary}")
    if failed:
        lines.append(f"{failed} items failed; --retry-failed runs them again")
    lines += [f"{arm} {reason}" for arm, reason in blocked.items()]
    console.print(Text("\n".join(lines)), soft_wrap=True)
    logger.info("driver ends: %d of %d parts done, %d failed", dispatcher.settled(), dispatcher.total(), failed)
    return 1 if failed or blocked else 0


def _say(console: Console, line: str, level: int = logging.WARNING) -> None:
    """Log and print a line exactly: paths and error texts are no markup, and are not wrapped."""
    logger.log(level, "%s", line)
    console.print(Text(line), soft_wrap=True)
