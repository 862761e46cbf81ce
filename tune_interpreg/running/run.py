"""The stages of `run`: check everything, open the store, drain the graph, report."""

from __future__ import annotations

from contextlib import nullcontext

from rich.console import Console
from rich.text import Text

from tune_interpreg import seeding, stopping
from tune_interpreg.attacks import autoattack
from tune_interpreg.commands import reports
from tune_interpreg.data.dataset import DataError, Dataset, count_test_images, load_dataset
from tune_interpreg.display.account import Account
from tune_interpreg.display.lines import Lines
from tune_interpreg.display.live import Live
from tune_interpreg.networks import piecewise_linear as models
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.search.target import NoLoss
from tune_interpreg.stopping import Stop
from tune_interpreg.store import lock
from tune_interpreg.store.storage import refusing
from tune_interpreg.store.store import Damaged, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.file.yaml_lines import StudyError

DONE, GAPS = 0, 1


def run(file: StudyFile, store: Store, *, where: str, retry_failed: bool, console: Console) -> int:
    """Run what is left of a study and print its tables; returns the exit code.

    Raises ``StudyError`` or ``StoreError`` before anything is written, also where another driver holds the store;
    ``ClusterError`` before anything runs; ``StudyError`` after the first training that lacks a loss to match;
    ``Refused`` where the disk takes no more, or another driver took over.
    """
    with refusing(store.path):
        _damaged_study(file.study, store)
    with pause_gc():
        fingerprint = checked_data(file).fingerprint
    with refusing(store.path), lock.held(store):
        try:
            return _run(file.study, store, fingerprint, where, retry_failed, console)
        except NoLoss as error:
            raise StudyError([file.locate(error.place, error.message)]) from None


def _run(study: Study, store: Store, fingerprint: str, where: str, retry_failed: bool, console: Console) -> int:
    """As ``run``, in a held store."""

    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    damaged = _damaged_study(study, store)  # another driver may have made it in the meantime
    store.check_access()
    lock.sign(store)
    store.sweep()
    if damaged:
        say(f"{store.set_aside(damaged)}; it is written anew")
    if retry_failed:
        say(f"{store.forget_failures()} failed items run again")
    with pause_gc():
        dispatcher = Dispatcher(study, store, fingerprint, say)
    store.save_study(study)
    stop, account = None, None
    if dispatcher.is_open():
        stop, account = _drain(dispatcher, where, console)
        store.sweep()  # of workers that died in this run
    if stop and dispatcher.is_open():
        say(f"{stopping.RUN_AGAIN}; tune-interpreg report {store.path} prints the tables so far")
        return stop.code
    with pause_gc():
        reports.print_all(store, console)
    return _outcome(dispatcher, account, console)


def _damaged_study(study: Study, store: Store) -> Damaged | None:
    """What is wrong with the store's own study, if anything is; raises ``StoreError`` where it is another one."""
    try:
        store.check(study)
    except Damaged as error:
        return error
    return None


def checked_data(file: StudyFile) -> Dataset:
    """Read the data and build the model on the driver, so that what cannot work fails here."""
    study = file.study
    try:
        loaded = load_dataset(study.data)
    except DataError as error:
        place = ("data", error.key) if error.key else ("data",)
        raise StudyError([file.locate(place, error.message)]) from None
    if len(loaded.train) < study.training.batch_size:
        message = f"a batch takes {study.training.batch_size} images, but there are {len(loaded.train)} to train on"
        raise StudyError([file.locate(("training", "batch_size"), f"{message}; lower it, or raise data.train_limit")])
    _check_autoattack(file, loaded)
    try:
        models.build(study.model, loaded.shape, loaded.classes, seeding.generator(0, "init"))
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{study.model.name} does not take images of shape {loaded.shape}: {error}; name another model"
        raise StudyError([file.locate(("model",), message)]) from None
    return loaded


def _check_autoattack(file: StudyFile, loaded: Dataset) -> None:
    """Refuse what AutoAttack cannot do after all trainings."""
    study, wanted = file.study, file.study.evaluation.autoattack
    if wanted is None:
        return
    images, place = count_test_images(study.data), ("evaluation", "autoattack")
    if images is not None and wanted > images:
        raise StudyError([file.locate(place, f"there are {images:,} test images, got {wanted:,}; lower it or drop it")])
    if problem := autoattack.problem(study.evaluation_attack, loaded.shape):
        raise StudyError([file.locate(place, problem)])


def _drain(dispatcher: Dispatcher, where: str, console: Console) -> tuple[Stop, Account]:
    """Run what is left: how it ended, and where the time went."""
    settled, total = dispatcher.settled(), dispatcher.total()
    console.print(f"{dispatcher.study.name}: {settled} of {total} parts are in {dispatcher.store.path}", soft_wrap=True)
    live = Live(console, dispatcher.study, dispatcher.state) if console.is_terminal else None
    with pause_gc():  # both take a second to load, which a finished study can do without
        from tune_interpreg.cluster import drain as cluster
        from tune_interpreg.display.tensorboard import Overview
    shown = Overview(dispatcher.store, dispatcher.study, dispatcher.records, live or Lines(console))
    account = dispatcher.display = Account(shown)
    with live or nullcontext():
        return cluster.drain(dispatcher, where), account


def _outcome(dispatcher: Dispatcher, account: Account | None, console: Console) -> int:
    """Say where all lies, where the time went and what is missing; the exit code."""
    store = dispatcher.store
    console.print(f"store        {store.path}", soft_wrap=True)
    console.print(f"tables       {store.report_dir}", soft_wrap=True)
    console.print(f"page         tune-interpreg report {store.path}", soft_wrap=True)
    console.print(f"TensorBoard  tune-interpreg tensorboard {store.path}", soft_wrap=True)
    if account and (told := account.told()):
        console.print(Text(f"time         {told}"), soft_wrap=True)
    failed = [record for record in dispatcher.records.values() if record["state"] == "failed"]
    if failed:
        console.print(f"{len(failed)} items failed; --retry-failed runs them again")
    blocked = graph.waiting(dispatcher.study, dispatcher.state)
    for arm, why in blocked.items():
        console.print(f"{arm} {why}")
    return GAPS if failed or blocked else DONE
