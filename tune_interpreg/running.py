"""The stages of `run`: check everything, open the store, drain the graph, report."""

from __future__ import annotations

import sys
from contextlib import nullcontext

from rich.console import Console

from tune_interpreg import graph, registry
from tune_interpreg.config import Study
from tune_interpreg.display import Lines, Live
from tune_interpreg.store import Store

INTERRUPTED = 130


def run(study: Study, store: Store, *, cluster: str, retry_failed: bool, console: Console) -> int:
    """Run what is left of ``study`` and print its tables; returns the exit code.

    Raises ``StudyError``, ``StoreError``, ``DataError`` or ``ClusterError`` before anything is written.
    """
    store.check(study)
    fingerprint = _checked_data(study)

    from tune_interpreg.dispatch import Dispatcher

    store.save_study(study)
    if retry_failed:
        console.print(f"{store.forget_failures()} failed items run again")
    dispatcher = Dispatcher(study, store, fingerprint)
    settled, total = dispatcher.settled(), dispatcher.total()
    if settled < total:
        console.print(f"{study.name}: {settled} of {total} parts are in {store.path}", soft_wrap=True)
        _drain(dispatcher, cluster, console)
    report(store, console)
    return _outcome(study, dispatcher, store, console)


def _checked_data(study: Study) -> str:
    """Read the data and build the model once on the driver, so that what cannot work fails here; the fingerprint."""
    from tune_interpreg import data, models, seeding
    from tune_interpreg.study_file import Problem, StudyError

    loaded = data.load(study.data)
    if len(loaded.train) < study.training.batch_size:
        message = f"a batch takes {study.training.batch_size} images, but there are {len(loaded.train)} to train on"
        raise StudyError(
            [Problem(study.name, "training.batch_size", f"{message}; lower it, or raise data.train_limit")]
        )
    try:
        models.build(study.model, loaded.shape, loaded.classes, seeding.generator(0, "init"))
    except (ValueError, RuntimeError) as error:
        message = f"{study.model} does not take images of shape {loaded.shape}: {error}; name another model"
        raise StudyError([Problem(study.name, "model", message)]) from None
    return loaded.fingerprint


def _drain(dispatcher: object, cluster: str, console: Console) -> None:
    from tune_interpreg.cluster import drain
    from tune_interpreg.dispatch import Dispatcher

    assert isinstance(dispatcher, Dispatcher)
    live = Live(console, dispatcher.settled(), dispatcher.total()) if sys.stdout.isatty() else None
    dispatcher.display = live or Lines(console)
    with live or nullcontext():
        drain(dispatcher, cluster)


def report(store: Store, console: Console) -> None:
    """Print and write the tables of a store."""
    study = store.study()
    for name in registry.names("reports"):
        registry.resolve("reports", name)(store.path, study, console)


def _outcome(study: Study, dispatcher: object, store: Store, console: Console) -> int:
    from tune_interpreg.dispatch import Dispatcher

    assert isinstance(dispatcher, Dispatcher)
    console.print(f"store        {store.path}", soft_wrap=True)
    console.print(f"tables       {store.report_dir}", soft_wrap=True)
    console.print(f"TensorBoard  tensorboard --logdir {store.tensorboard_dir}", soft_wrap=True)
    failed = [record for record in dispatcher.records.values() if record["state"] == "failed"]
    blocked = graph.waiting(study, dispatcher.state)
    if dispatcher.settled() < dispatcher.total() and not failed and not blocked:
        console.print("interrupted: run the same command again to go on")
        return INTERRUPTED
    if failed:
        console.print(f"{len(failed)} items failed; --retry-failed runs them again")
    for arm, why in blocked.items():
        console.print(f"{arm} {why}")
    return 1 if failed or blocked else 0
