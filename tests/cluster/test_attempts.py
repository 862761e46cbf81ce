"""The result of a job if its worker raises, is killed or is pruned. The workers follow a script."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.closed_form import run, study, worker
from ray.exceptions import RayActorError, RayTaskError

from tune_interpreg.cluster import nodes
from tune_interpreg.cluster.drain import run_job
from tune_interpreg.cluster.tune import RETRIES, REVIVALS, GraphSearcher
from tune_interpreg.cluster.worker import ERROR_FILE, KILLED, StudyTrainable, read_error, worker_config
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.stopping import Stop
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Item, Job, Train

pytestmark = pytest.mark.ray

Patch = pytest.MonkeyPatch

MEDIAN = (
    "{method: jacobian, search: {maximize: val/adv_accuracy, trials: 9, parallel: 1, pruner: median,"
    " space: {lambda_j: {log_uniform: [0.001, 1.0]}}}}"
)
EPOCH = {"epoch": 1, "train/loss": 1.0}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: Patch) -> Store:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    return Store(tmp_path / "store")


@pytest.fixture
def dispatcher(store: Store) -> Dispatcher:
    return Dispatcher(study("standard", seeds="[0]"), store, "f")


class Scripted:
    """In place of the job's own Trainable: each step returns the next result, or raises the next exception.

    It writes the records of a result.
    """

    def __init__(self, script: Iterator[Any], store: Store):
        self._script, self._store = script, store
        self.warning, self.earlier, self.spent, self.logdir = None, None, {"train": 2.0}, "nowhere"

    def step(self) -> dict[str, Any]:
        if isinstance(result := next(self._script), Exception):
            raise result
        for record in json.loads(result.get("records", "[]")):
            self._store.write_record(record)
        if error := result.get("raises"):
            raise error
        self.warning, self.earlier = result.pop("warning", None), result.pop("earlier", None)
        return result

    def cleanup(self) -> None:
        """Do nothing."""


def follow(script: Iterable[Any], monkeypatch: Patch) -> Iterator[Any]:
    """Let all workers together follow a script; returns what is left of it."""
    steps = iter(script)
    monkeypatch.setattr(StudyTrainable, "_trainable", lambda self, job: Scripted(steps, self._store))
    return steps


def next_job(dispatcher: Dispatcher) -> Job:
    job = dispatcher.next()
    assert isinstance(job, Job)
    return job


def run_here(dispatcher: Dispatcher, job: Job, stop: Stop | None = None) -> None:
    run_job(dispatcher, job, worker_config(job, dispatcher.store, "cpu"), stop or Stop())


def done(job: Job, items: Sequence[Item] | None = None) -> dict[str, Any]:
    """Return the result of a step that finishes items, all of the job by default."""
    return {**EPOCH, "records": json.dumps([worker(job, item) for item in items or job.items]), "done": True}


def read_record(store: Store, job: Job) -> Record:
    record = store.read_record(job.arm, job.items[0])
    assert record is not None
    return record


# -------------------------------------------------------------- in this process
def test_an_epoch_resets_the_count_of_a_job_that_raises(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    job, errors = next_job(dispatcher), [ValueError("raised")] * RETRIES
    rest = follow([*errors, EPOCH, *errors, EPOCH, *errors, ValueError("the last"), "not reached"], monkeypatch)
    run_here(dispatcher, job)
    assert list(rest) == ["not reached"]
    record = read_record(dispatcher.store, job)
    assert record["state"] == "failed"
    assert "ValueError: the last" in record["error"].splitlines()[0]


def test_judgments_that_always_raise_fail_one_by_one_and_the_training_is_done(
    dispatcher: Dispatcher, monkeypatch: Patch
) -> None:
    job = next_job(dispatcher)
    attempts = (RETRIES + 1) * len(job.work)
    rest = follow([done(job, job.models), *[ValueError("raised")] * attempts, "not reached"], monkeypatch)
    while isinstance(job, Job):
        run_here(dispatcher, job)
        job = dispatcher.next()
    assert list(rest) == ["not reached"]
    states = {(record["kind"], record["state"]) for record in dispatcher.store.records()}
    assert states == {("train", "done"), ("judge", "failed")}
    assert dispatcher.settled() == dispatcher.total()


def test_an_exception_of_the_driver_is_not_the_jobs(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    job = next_job(dispatcher)
    rest = follow([done(job), "not reached"], monkeypatch)
    monkeypatch.setattr(dispatcher, "take", lambda job, records: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run_here(dispatcher, job)
    assert list(rest) == ["not reached"]
    assert {record["state"] for record in dispatcher.store.records()} == {"done"}


def test_a_worker_that_raises_after_its_last_record_is_done(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    job = next_job(dispatcher)
    rest = follow([done(job) | {"raises": ValueError("too late")}, "not reached"], monkeypatch)
    run_here(dispatcher, job)
    assert list(rest) == ["not reached"]
    assert dispatcher.settled() == dispatcher.total()


def test_an_epoch_counts_even_if_the_run_is_asked_to_stop(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    reports: list[Any] = []
    follow([EPOCH], monkeypatch)
    monkeypatch.setattr(dispatcher, "epoch", lambda job, *new: reports.extend(new))
    stop = Stop()
    stop.requested = True
    with pytest.raises(KeyboardInterrupt):
        run_here(dispatcher, next_job(dispatcher), stop)
    assert [report["epoch"] for report in reports] == [1]


# ---------------------------------------------------------------------- pruning
def pruning(store: Store, messages: list[object]) -> tuple[Dispatcher, Job]:
    """Return a dispatcher and its next trial, which is pruned if its first epoch is below 0.5."""
    dispatcher = Dispatcher(study("standard", seeds="[0]", arm=MEDIAN), store, "f", messages.append)

    def answer(job: Job, item: Item) -> Record:
        curve = {"curve": [{"val/adv_accuracy": 0.5}] * 3}
        return worker(job, item) | (curve if isinstance(item, Train) else {})

    while (job := next_job(dispatcher)).number is None or job.number < 5:
        run(dispatcher, job, answer)
    return dispatcher, job


@pytest.mark.parametrize(
    ("where", "after_a_kill"),
    [("in process", True), ("in process", False), ("on Ray", True), ("on Ray", False), ("on Ray, at its end", True)],
)
def test_a_pruned_trial_is_recorded_once_with_its_time(
    where: str, after_a_kill: bool, store: Store, monkeypatch: Patch
) -> None:
    """A worker that continues after a kill reports the earlier epochs together with its own."""
    messages: list[object] = []
    dispatcher, job = pruning(store, messages)
    earlier = [{"epoch": 1, "val/adv_accuracy": 0.1}]
    result = {"epoch": 2, "val/adv_accuracy": 0.9} if after_a_kill else earlier[0]
    if where == "on Ray, at its end":
        result = done(job)
    follow([result | {"earlier": earlier * after_a_kill, "warning": "printed once"}], monkeypatch)
    if where == "in process":
        run_here(dispatcher, job)
    else:
        run_on_ray(dispatcher, job, at_end="records" in result)
    record = read_record(store, job)
    assert (record["state"], record["epochs"], record["metrics"]) == ("pruned", 1, {"val/adv_accuracy": 0.1})
    assert (record["seconds"], record["spent"]) == (2.0, {"train": 2.0})
    assert messages == ["printed once"]
    assert next_job(dispatcher).number == (job.number or 0) + 1


def run_on_ray(dispatcher: Dispatcher, job: Job, at_end: bool) -> None:
    """Do what Tune does with the next result of the job's worker."""
    searcher = GraphSearcher(dispatcher, "cpu")
    searcher.jobs["t"] = job
    result = StudyTrainable(worker_config(job, dispatcher.store, "cpu")).step()
    result |= {"config/store": "store", "config/job/number": job.number}
    assert at_end or searcher.record_epoch("t", result)
    searcher.on_trial_complete("t", result)
    assert not searcher.jobs
    assert searcher.failure is None


# ----------------------------------------------------------------------- on Ray
RAISED, DIED = RayTaskError("step", "traceback", ValueError("raised")), RayActorError()


def end_attempts(searcher: GraphSearcher, errors: Sequence[Exception]) -> None:
    """End one attempt of the job per error."""
    for error in errors:
        job = searcher.next_job()
        assert isinstance(job, Job)
        searcher.jobs["t"], searcher.errors["t"] = job, error
        searcher.on_trial_complete("t", error=True)
    assert searcher.failure is None


@pytest.fixture
def searcher(dispatcher: Dispatcher, monkeypatch: Patch) -> GraphSearcher:
    monkeypatch.setattr(nodes, "is_node_lost", lambda error: False)
    return GraphSearcher(dispatcher, "cpu")


def test_kills_and_exceptions_are_counted_apart(searcher: GraphSearcher) -> None:
    end_attempts(searcher, [DIED] * 3 + [RAISED] * RETRIES)
    assert searcher.dispatcher.settled() == 0
    end_attempts(searcher, [RAISED])
    assert [record["state"] for record in searcher.dispatcher.store.records()] == ["failed"]


def test_a_lost_node_does_not_count_against_its_job(searcher: GraphSearcher, monkeypatch: Patch) -> None:
    monkeypatch.setattr(nodes, "is_node_lost", lambda error: True)
    end_attempts(searcher, [DIED] * 3 * REVIVALS)
    assert searcher.dispatcher.store.records() == []


def test_a_job_that_is_killed_too_often_fails_for_that_reason(searcher: GraphSearcher) -> None:
    end_attempts(searcher, [RAISED])
    job, store = searcher.next_job(), searcher.dispatcher.store
    assert isinstance(job, Job)
    store.write_text(store.checkpoint_dir(job.key) / ERROR_FILE, "ValueError: long ago")
    searcher.jobs["t"], searcher.errors["t"] = job, DIED
    searcher.on_trial_complete("t", error=True)
    end_attempts(searcher, [DIED] * REVIVALS)
    assert read_record(store, job)["error"] == KILLED
    assert searcher.dispatcher.next() is Pause.DRAINED


def test_a_finished_epoch_deletes_the_earlier_exception(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    job, store = next_job(dispatcher), dispatcher.store
    follow([ValueError("raised"), EPOCH], monkeypatch)
    trainable = StudyTrainable(worker_config(job, store, "cpu"))
    with pytest.raises(ValueError, match="raised"):
        trainable.step()
    assert read_error(store, job).startswith("ValueError: raised")
    trainable.step()
    assert read_error(store, job) == KILLED
