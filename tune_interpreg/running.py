"""The stages of `run`: check everything, open the store, drain the graph, report."""

from __future__ import annotations

from contextlib import nullcontext

from rich.console import Console

from tune_interpreg import autoattack, cluster, data, graph, lock, models, reports, seeding
from tune_interpreg.config import Study
from tune_interpreg.dispatch import Dispatcher
from tune_interpreg.display import Lines, Live
from tune_interpreg.stopping import Stop
from tune_interpreg.store import Store, StoreError
from tune_interpreg.study_file import StudyFile
from tune_interpreg.yaml_file import StudyError

DONE, GAPS = 0, 1


def run(file: StudyFile, store: Store, *, where: str, retry_failed: bool, console: Console) -> int:
    """Run what is left of a study and print its tables; returns the exit code.

    Raises ``StudyError`` or ``StoreError`` before anything is written, also where another driver holds the store;
    ``ClusterError`` before anything runs.
    """
    store.check(file.study)
    fingerprint = _checked_data(file)
    with lock.held(store):
        store.check(file.study)  # another driver may have made it in the meantime
        if retry_failed:
            console.print(f"{store.forget_failures()} failed items run again")
        dispatcher = Dispatcher(file.study, store, fingerprint)
        _save(file.study, store)
        lock.sign(store)
        stop = _drain(dispatcher, where, console) if dispatcher.settled() < dispatcher.total() else None
        reports.print_all(store, console)
        return _outcome(dispatcher, console, stop)


def _checked_data(file: StudyFile) -> str:
    """Read the data and build the model on the driver, so that what cannot work fails here; the data's fingerprint."""
    study = file.study
    try:
        loaded = data.load(study.data)
    except data.DataError as error:
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
    return loaded.fingerprint


def _check_autoattack(file: StudyFile, loaded: data.Dataset) -> None:
    """Refuse what AutoAttack cannot do after all trainings."""
    study, wanted = file.study, file.study.evaluation.autoattack
    if wanted is None:
        return
    images, place = data.test_images(study.data), ("evaluation", "autoattack")
    if images is not None and wanted > images:
        raise StudyError([file.locate(place, f"there are {images:,} test images, got {wanted:,}; lower it or drop it")])
    if problem := autoattack.problem(study.evaluation_attack, loaded.shape):
        raise StudyError([file.locate(place, problem)])


def _save(study: Study, store: Store) -> None:
    try:
        store.save_study(study)
    except OSError as error:
        message = f"{store.path}: cannot be written ({error.strerror}); name another folder with --store"
        raise StoreError(message) from None


def _drain(dispatcher: Dispatcher, where: str, console: Console) -> Stop:
    settled, total = dispatcher.settled(), dispatcher.total()
    console.print(f"{dispatcher.study.name}: {settled} of {total} parts are in {dispatcher.store.path}", soft_wrap=True)
    live = Live(console, settled, total) if console.is_terminal else None
    dispatcher.display = live or Lines(console)
    with live or nullcontext():
        return cluster.drain(dispatcher, where)


def _outcome(dispatcher: Dispatcher, console: Console, stop: Stop | None) -> int:
    """Say where all lies and what is missing; the exit code."""
    store = dispatcher.store
    console.print(f"store        {store.path}", soft_wrap=True)
    console.print(f"tables       {store.report_dir}", soft_wrap=True)
    console.print(f"TensorBoard  tensorboard --logdir {store.tensorboard_dir}", soft_wrap=True)
    if stop and dispatcher.settled() < dispatcher.total() and not dispatcher.drained:
        console.print("interrupted: run the same command again to go on")
        return stop.code
    failed = [record for record in dispatcher.records.values() if record["state"] == "failed"]
    if failed:
        console.print(f"{len(failed)} items failed; --retry-failed runs them again")
    blocked = graph.waiting(dispatcher.study, dispatcher.state)
    for arm, why in blocked.items():
        console.print(f"{arm} {why}")
    return GAPS if failed or blocked else DONE
