"""What becomes of an item whose worker raises, is killed or is pruned, by workers that follow a script."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.closed_form import study, worker
from ray.exceptions import RayActorError, RayTaskError

from tune_interpreg.cluster import drain as cluster
from tune_interpreg.cluster import tune as tuning
from tune_interpreg.cluster.tune import RETRIES, REVIVALS, GraphSearcher
from tune_interpreg.cluster.worker import ERROR_FILE, KILLED, StudyTrainable, read_error, worker_config
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.stopping import Stop
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Item

MEDIAN = (
    "{method: jacobian, search: {maximize: val/adv_accuracy, trials: 9, pruner: median,"
    " space: {lambda_j: {log_uniform: [0.001, 1.0]}}}}"
)
EPOCH = {"epoch": 1, "train/loss": 1.0}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    return Store(tmp_path / "store")


class Scripted:
    """In place of the item's own Trainable: each step returns what comes next, or raises it."""

    def __init__(self, script: Iterator[Any]):
        self._script = script
        self.warning, self.earlier, self.spent, self.logdir = None, None, {"train": 2.0}, "nowhere"

    def step(self) -> dict[str, Any]:
        if isinstance(told := next(self._script), Exception):
            raise told
        self.warning, self.earlier = told.pop("warning", None), told.pop("earlier", None)
        return told

    def cleanup(self) -> None:
        """Nothing."""


def follow(script: Iterable[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script, from now on of all workers together."""
    steps = iter(script)
    monkeypatch.setattr(StudyTrainable, "_trainable", lambda self: Scripted(steps))
    return steps


def started(dispatcher: Dispatcher) -> Item:
    item = dispatcher.next()
    assert isinstance(item, Item)
    return item


def attempt(dispatcher: Dispatcher, item: Item) -> None:
    cluster.run_item(dispatcher, item, worker_config(item, dispatcher.store, "cpu"), Stop())


def done(item: Item) -> dict[str, Any]:
    return {**EPOCH, "record": json.dumps(worker(item)), "done": True}


def recorded(store: Store, item: Item) -> Record:
    found = store.read_record(item)
    assert found is not None
    return found


# -------------------------------------------------------------- in this process
def test_what_raises_is_begun_again_and_an_epoch_begins_the_count_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(study("standard"), store, "f")
    item, wrong = started(dispatcher), [ValueError("as asked")] * RETRIES
    left = follow([*wrong, EPOCH, *wrong, EPOCH, *wrong, ValueError("the last"), "never asked"], monkeypatch)
    attempt(dispatcher, item)
    assert list(left) == ["never asked"]
    assert recorded(store, item)["state"] == "failed"
    assert recorded(store, item)["error"].startswith("ValueError: the last")


def test_what_the_driver_raises_says_nothing_against_the_item(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(study("standard"), store, "f")
    item = started(dispatcher)
    store.write_record(worker(item))
    left = follow([done(item), "never asked"], monkeypatch)
    monkeypatch.setattr(dispatcher, "finish", lambda item, record: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        attempt(dispatcher, item)
    assert list(left) == ["never asked"]
    assert recorded(store, item)["state"] == "done"


def test_a_worker_that_raises_after_it_wrote_its_record_has_done_its_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(study("standard"), store, "f")
    item = started(dispatcher)
    store.write_record(worker(item))
    left = follow([ValueError("too late"), "never asked"], monkeypatch)
    attempt(dispatcher, item)
    assert list(left) == ["never asked"]
    assert dispatcher.settled() == 1


def test_an_epoch_counts_also_where_the_run_is_asked_to_stop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, heard, stop = Dispatcher(study("standard"), store, "f"), [], Stop()
    item = started(dispatcher)
    follow([EPOCH], monkeypatch)
    monkeypatch.setattr(dispatcher, "epoch", lambda item, *reports: heard.extend(reports))
    stop.requested = True
    with pytest.raises(KeyboardInterrupt):
        cluster.run_item(dispatcher, item, worker_config(item, store, "cpu"), stop)
    assert [report["epoch"] for report in heard] == [1]


# ---------------------------------------------------------------------- pruning
def searching(store: Store, said: list[object]) -> tuple[Dispatcher, Item]:
    """A dispatcher whose next trial is pruned below 0.5 in its first epoch."""
    of = study("standard", seeds="[0]", arm=MEDIAN)
    dispatcher = Dispatcher(of, store, "f", said.append)
    while (item := started(dispatcher)).number < 5:
        made = worker(item) | {"curves": {"0": [{"val/adv_accuracy": 0.5}] * 3}}
        store.write_record(made)
        dispatcher.finish(item, made)
    return dispatcher, item


@pytest.mark.parametrize(
    ("where", "after_a_kill"),
    [("in process", True), ("in process", False), ("on Ray", True), ("on Ray", False), ("on Ray, at its end", True)],
)
def test_a_trial_that_its_pruner_gives_up_is_settled_once_with_what_it_took(
    where: str, after_a_kill: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it at an epoch before a kill: a worker that goes on tells of it beside an epoch of its own."""
    said: list[object] = []
    dispatcher, item = searching(store, said)
    earlier = [{"epoch": 1, "val/adv_accuracy": 0.1}]
    own = {"epoch": 2, "val/adv_accuracy": 0.9} if after_a_kill else earlier[0]
    own = done(item) if where == "on Ray, at its end" else own
    follow([own | {"earlier": earlier * after_a_kill, "warning": "be told once"}], monkeypatch)
    if where == "in process":
        attempt(dispatcher, item)
    else:
        on_ray(dispatcher, item, ended="record" in own)
    found = recorded(store, item)
    assert (found["state"], found["epochs"], found["metrics"]) == ("pruned", 1, {"0": {"val/adv_accuracy": 0.1}})
    assert (found["seconds"], found["spent"]) == (2.0, {"train": 2.0})
    assert said == ["be told once"]
    assert started(dispatcher).number == item.number + 1


def on_ray(dispatcher: Dispatcher, item: Item, ended: bool) -> None:
    """What Tune does with the next result of the item's worker."""
    searcher = GraphSearcher(dispatcher, "cpu")
    searcher.items["t"] = item
    result = StudyTrainable(worker_config(item, dispatcher.store, "cpu")).step()
    result |= {"config/store": "store", "config/item/number": item.number}
    assert ended or searcher.record_epoch("t", result)
    searcher.on_trial_complete("t", result)
    assert not searcher.items
    assert searcher.failure is None


# ----------------------------------------------------------------------- on Ray
def ends(searcher: GraphSearcher, errors: Sequence[Exception]) -> None:
    """The item's attempts end so, one after another."""
    for error in errors:
        item = searcher.next_item()
        assert isinstance(item, Item)
        searcher.items["t"], searcher.errors["t"] = item, error
        searcher.on_trial_complete("t", error=True)
    assert searcher.failure is None


@pytest.fixture
def searcher(store: Store, monkeypatch: pytest.MonkeyPatch) -> GraphSearcher:
    monkeypatch.setattr(tuning.nodes, "is_node_lost", lambda error: False)
    return GraphSearcher(Dispatcher(study("standard", seeds="[0]"), store, "f"), "cpu")


RAISED, DIED = RayTaskError("step", "traceback", ValueError("as asked")), RayActorError()


def test_kills_and_exceptions_are_counted_apart(searcher: GraphSearcher) -> None:
    ends(searcher, [DIED] * 3 + [RAISED] * RETRIES)
    assert searcher.dispatcher.settled() == 0
    ends(searcher, [RAISED])
    assert [record["state"] for record in searcher.dispatcher.store.records()] == ["failed"]


def test_an_item_that_is_killed_again_and_again_is_not_said_to_have_raised(searcher: GraphSearcher) -> None:
    ends(searcher, [RAISED])
    item = searcher._restarts[0]
    store = searcher.dispatcher.store
    store.write_text(store.checkpoint_dir(item.key) / ERROR_FILE, "ValueError: long ago")
    ends(searcher, [DIED] * (REVIVALS + 1))
    assert recorded(store, item)["error"] == KILLED
    assert searcher.dispatcher.next() is Pause.DRAINED


def test_an_epoch_that_succeeds_leaves_no_word_of_an_earlier_exception(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = started(Dispatcher(study("standard"), store, "f"))
    follow([ValueError("as asked"), EPOCH], monkeypatch)
    trainable = StudyTrainable(worker_config(item, store, "cpu"))
    with pytest.raises(ValueError, match="as asked"):
        trainable.step()
    assert read_error(store, item).startswith("ValueError: as asked")
    trainable.step()
    assert read_error(store, item) == KILLED
