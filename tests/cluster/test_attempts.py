"""The result of an item if its worker raises, is killed or is pruned. The workers follow a script."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.closed_form import study, worker
from ray.exceptions import RayActorError, RayTaskError

from tune_interpreg.cluster import nodes
from tune_interpreg.cluster.drain import run_item
from tune_interpreg.cluster.tune import RETRIES, REVIVALS, GraphSearcher
from tune_interpreg.cluster.worker import ERROR_FILE, KILLED, StudyTrainable, read_error, worker_config
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.stopping import Stop
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Item

pytestmark = pytest.mark.ray

Patch = pytest.MonkeyPatch

MEDIAN = (
    "{method: jacobian, search: {maximize: val/adv_accuracy, trials: 9, pruner: median,"
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
    """In place of the item's own Trainable: each step returns the next result, or raises the next exception."""

    def __init__(self, script: Iterator[Any]):
        self._script = script
        self.warning, self.earlier, self.spent, self.logdir = None, None, {"train": 2.0}, "nowhere"

    def step(self) -> dict[str, Any]:
        if isinstance(result := next(self._script), Exception):
            raise result
        self.warning, self.earlier = result.pop("warning", None), result.pop("earlier", None)
        return result

    def cleanup(self) -> None:
        """Do nothing."""


def follow(script: Iterable[Any], monkeypatch: Patch) -> Iterator[Any]:
    """Let all workers together follow a script; returns what is left of it."""
    steps = iter(script)
    monkeypatch.setattr(StudyTrainable, "_trainable", lambda self, item, store: Scripted(steps))
    return steps


def next_item(dispatcher: Dispatcher) -> Item:
    item = dispatcher.next()
    assert isinstance(item, Item)
    return item


def run_here(dispatcher: Dispatcher, item: Item, stop: Stop | None = None) -> None:
    run_item(dispatcher, item, worker_config(item, dispatcher.store, "cpu"), stop or Stop())


def done(item: Item) -> dict[str, Any]:
    return {**EPOCH, "record": json.dumps(worker(item)), "done": True}


def read_record(store: Store, item: Item) -> Record:
    record = store.read_record(item)
    assert record is not None
    return record


# -------------------------------------------------------------- in this process
def test_an_epoch_resets_the_count_of_an_item_that_raises(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    item, errors = next_item(dispatcher), [ValueError("raised")] * RETRIES
    rest = follow([*errors, EPOCH, *errors, EPOCH, *errors, ValueError("the last"), "not reached"], monkeypatch)
    run_here(dispatcher, item)
    assert list(rest) == ["not reached"]
    record = read_record(dispatcher.store, item)
    assert record["state"] == "failed"
    assert record["error"].startswith("ValueError: the last")


def test_an_exception_of_the_driver_is_not_the_items(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    item = next_item(dispatcher)
    rest = follow([done(item), "not reached"], monkeypatch)
    monkeypatch.setattr(dispatcher, "finish", lambda item, record: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run_here(dispatcher, item)
    assert list(rest) == ["not reached"]
    assert dispatcher.store.records() == []


def test_a_worker_that_raises_after_its_record_is_done(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    item = next_item(dispatcher)
    dispatcher.store.write_record(worker(item))
    rest = follow([ValueError("too late"), "not reached"], monkeypatch)
    run_here(dispatcher, item)
    assert list(rest) == ["not reached"]
    assert dispatcher.settled() == 1


def test_an_epoch_counts_even_if_the_run_is_asked_to_stop(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    reports: list[Any] = []
    follow([EPOCH], monkeypatch)
    monkeypatch.setattr(dispatcher, "epoch", lambda item, *new: reports.extend(new))
    stop = Stop()
    stop.requested = True
    with pytest.raises(KeyboardInterrupt):
        run_here(dispatcher, next_item(dispatcher), stop)
    assert [report["epoch"] for report in reports] == [1]


# ---------------------------------------------------------------------- pruning
def pruning(store: Store, messages: list[object]) -> tuple[Dispatcher, Item]:
    """Return a dispatcher and its next trial, which is pruned if its first epoch is below 0.5."""
    dispatcher = Dispatcher(study("standard", seeds="[0]", arm=MEDIAN), store, "f", messages.append)
    while (item := next_item(dispatcher)).number < 5:
        record = worker(item) | {"curves": {"0": [{"val/adv_accuracy": 0.5}] * 3}}
        store.write_record(record)
        dispatcher.finish(item, record)
    return dispatcher, item


@pytest.mark.parametrize(
    ("where", "after_a_kill"),
    [("in process", True), ("in process", False), ("on Ray", True), ("on Ray", False), ("on Ray, at its end", True)],
)
def test_a_pruned_trial_is_recorded_once_with_its_time(
    where: str, after_a_kill: bool, store: Store, monkeypatch: Patch
) -> None:
    """A worker that continues after a kill reports the earlier epochs together with its own."""
    messages: list[object] = []
    dispatcher, item = pruning(store, messages)
    earlier = [{"epoch": 1, "val/adv_accuracy": 0.1}]
    result = {"epoch": 2, "val/adv_accuracy": 0.9} if after_a_kill else earlier[0]
    if where == "on Ray, at its end":
        result = done(item)
    follow([result | {"earlier": earlier * after_a_kill, "warning": "printed once"}], monkeypatch)
    if where == "in process":
        run_here(dispatcher, item)
    else:
        run_on_ray(dispatcher, item, at_end="record" in result)
    record = read_record(store, item)
    assert (record["state"], record["epochs"], record["metrics"]) == ("pruned", 1, {"0": {"val/adv_accuracy": 0.1}})
    assert (record["seconds"], record["spent"]) == (2.0, {"train": 2.0})
    assert messages == ["printed once"]
    assert next_item(dispatcher).number == item.number + 1


def run_on_ray(dispatcher: Dispatcher, item: Item, at_end: bool) -> None:
    """Do what Tune does with the next result of the item's worker."""
    searcher = GraphSearcher(dispatcher, "cpu")
    searcher.items["t"] = item
    result = StudyTrainable(worker_config(item, dispatcher.store, "cpu")).step()
    result |= {"config/store": "store", "config/item/number": item.number}
    assert at_end or searcher.record_epoch("t", result)
    searcher.on_trial_complete("t", result)
    assert not searcher.items
    assert searcher.failure is None


# ----------------------------------------------------------------------- on Ray
RAISED, DIED = RayTaskError("step", "traceback", ValueError("raised")), RayActorError()


def end_attempts(searcher: GraphSearcher, errors: Sequence[Exception]) -> None:
    """End one attempt of the item per error."""
    for error in errors:
        item = searcher.next_item()
        assert isinstance(item, Item)
        searcher.items["t"], searcher.errors["t"] = item, error
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


def test_a_lost_node_does_not_count_against_its_item(searcher: GraphSearcher, monkeypatch: Patch) -> None:
    monkeypatch.setattr(nodes, "is_node_lost", lambda error: True)
    end_attempts(searcher, [DIED] * 3 * REVIVALS)
    assert searcher.dispatcher.store.records() == []


def test_an_item_that_is_killed_too_often_fails_for_that_reason(searcher: GraphSearcher) -> None:
    end_attempts(searcher, [RAISED])
    item, store = searcher.next_item(), searcher.dispatcher.store
    assert isinstance(item, Item)
    store.write_text(store.checkpoint_dir(item.key) / ERROR_FILE, "ValueError: long ago")
    searcher.items["t"], searcher.errors["t"] = item, DIED
    searcher.on_trial_complete("t", error=True)
    end_attempts(searcher, [DIED] * REVIVALS)
    assert read_record(store, item)["error"] == KILLED
    assert searcher.dispatcher.next() is Pause.DRAINED


def test_a_finished_epoch_deletes_the_earlier_exception(dispatcher: Dispatcher, monkeypatch: Patch) -> None:
    item, store = next_item(dispatcher), dispatcher.store
    follow([ValueError("raised"), EPOCH], monkeypatch)
    trainable = StudyTrainable(worker_config(item, store, "cpu"))
    with pytest.raises(ValueError, match="raised"):
        trainable.step()
    assert read_error(store, item).startswith("ValueError: raised")
    trainable.step()
    assert read_error(store, item) == KILLED
