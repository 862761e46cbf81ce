"""Whole studies through the dispatcher, with closed-form workers in place of trainings."""

import math
import shutil
from itertools import islice
from pathlib import Path

import pytest
from helpers.closed_form import ARMS, TWINS, Leaving, drain, failing, steps, strength, study, worker

from tune_interpreg.planning.forecast import read_progress
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.search.journal import open_journal
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item


def searched(of: Study, store: Store, arm: str) -> dict[int, Record]:
    records = Dispatcher(of, store, "f").records.values()
    return {record["number"]: record for record in records if (record["role"], record["arm"]) == ("search", arm)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize("workers", [1, 20])
def test_a_study_drains_with_every_part_once_and_matched_losses(store: Store, workers: int) -> None:
    of = study()
    ran = drain(of, store, workers=workers)
    assert len(ran) == len({item.key for item in ran}) == graph.count_parts(of) == 15 + 10 + 1
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total() == len(dispatcher.records)
    assert not graph.blocked_arms(of, dispatcher.state)
    assert not list((store.path / "checkpoints").iterdir())
    chosen = {item.arm: strength(item) for item in ran if item.role == "repeat"}
    tried = [strength(item) for item in ran if (item.arm, item.role) == ("robust", "search")]
    assert chosen["robust"] == min(tried, key=lambda x: abs(math.log(x / 0.1)))
    assert [chosen[arm] for arm in ("permuted", "jacobian")] == pytest.approx([chosen["robust"]] * 2, rel=0.25)
    assert {item.arm for item in ran if item.role == "search" and item.adversarial} == {"robust"}


def test_a_finished_study_runs_nothing_and_writes_nothing(store: Store) -> None:
    of = study(**TWINS)
    drain(of, store)
    store.journal.unlink()
    files = sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*"))
    assert drain(of, store) == []
    assert sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*")) == files


def test_a_study_killed_anywhere_and_resumed_is_the_uninterrupted_study(store: Store, tmp_path: Path) -> None:
    twins = TWINS["one"].replace("trials: 8", "trials: 3").replace("standard", "adversarial")
    arms = {name: ARMS[name].replace("trials: 6", "trials: 4").replace("trials: 5", "trials: 4") for name in ARMS}
    of = study("adversarial", robust=arms["robust"], permuted=arms["permuted"], one=twins, seeds="[3]")
    answer = failing(lambda item: item.number == 3 and item.arm == "robust", "diverged")
    whole = []
    for count, item in enumerate(steps(Dispatcher(of, store, "f"), answer)):
        shutil.copytree(store.path, tmp_path / str(count))
        whole.append(item)
    for count in range(len(whole)):
        assert drain(of, Store(tmp_path / str(count)), answer) == whole[count:]
        shutil.rmtree(tmp_path / str(count))


@pytest.mark.parametrize("workers", [2, 5])
def test_interrupted_items_run_first_and_nothing_settled_runs_again(store: Store, tmp_path: Path, workers: int) -> None:
    of = study("adversarial", "robust", "jacobian")
    started = []
    for count, item in enumerate(steps(Dispatcher(of, store, "f"), workers=workers)):
        started.append(item)
        if count % 6:
            continue
        killed = Store(shutil.copytree(store.path, tmp_path / str(count)))
        before = {record["key"] for record in killed.records()}
        interrupted = [other for other in started if other.key not in before]
        again = drain(of, killed, workers=workers)
        assert {other.key for other in again[: len(interrupted)]} == {other.key for other in interrupted}
        assert before.isdisjoint(other.key for other in again)
        assert len(again) == graph.count_parts(of) - len(before)


def test_a_record_counts_that_no_driver_has_taken(store: Store) -> None:
    of = study("standard")
    item = next(steps(Dispatcher(of, store, "f")))
    store.write_record(worker(item))
    assert [item.seeds for item in drain(of, store)] == [(1,)]
    assert store.read_notes()[0] == []


def test_leftovers_of_a_settled_item_are_deleted(store: Store) -> None:
    """A run may die after it deleted the note and before it deleted the checkpoint."""
    of = study("standard")
    items = drain(of, store)
    for item, name in zip(items, ("item.json", "epoch.safetensors"), strict=True):
        store.note_start(item)
        (store.checkpoint_dir(item.key) / "epoch.safetensors").touch()
        (store.checkpoint_dir(item.key) / name).unlink()
    assert drain(of, store) == []
    assert store.checkpoint_keys() == set()


def test_a_read_only_store_counts_what_a_damaged_file_opens_again(store: Store) -> None:
    """`plan` looks at a store while a driver may use it: nothing changes, and the loop over damaged files ends."""
    of = study("adversarial", "robust", seeds="[0]")
    store.save_study(of)
    next(item for item in steps(Dispatcher(of, store, "f"), Leaving(store)) if item.role == "targets")
    (model,) = store.path.glob("models/*/*")
    model.write_bytes(b"damaged")
    assert read_progress(of, store, "f").settled() == 0
    assert model.read_bytes() == b"damaged"
    assert len(store.records()) == 1


def test_new_arms_seeds_and_trials_run_nothing_else(store: Store) -> None:
    drain(study("standard", "adversarial", "robust"), store)
    new = drain(study(), store)
    assert {item.arm for item in new} == {"permuted", "jacobian"}
    new = drain(study(seeds="[0, 1, 7]"), store)
    assert sorted((item.arm, item.role, item.seeds) for item in new) == [(arm, "repeat", (7,)) for arm in sorted(ARMS)]
    longer = {"jacobian": ARMS["jacobian"].replace("trials: 4", "trials: 6, tolerance: 1.0e-9")}
    new = drain(study(seeds="[0, 1, 7]", **longer), store)
    assert [item.number for item in new if item.role == "search"] == [4, 5]
    assert {item.arm for item in new} == {"jacobian"}


def test_more_trials_with_the_same_choice_repeat_nothing_downstream(store: Store) -> None:
    drain(study(), store)
    worse = failing(lambda item: item.role == "search")
    new = drain(study(robust=ARMS["robust"].replace("trials: 6", "trials: 8")), store, worse)
    assert [(item.arm, item.role, item.number) for item in new] == [("robust", "search", 6), ("robust", "search", 7)]


def test_a_reference_with_another_choice_is_matched_again(store: Store) -> None:
    drain(study(), store)
    weak = study(robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.005, 0.02]"))
    new = drain(weak, store)
    chosen = {item.arm: strength(item) for item in new if item.role == "repeat"}
    assert chosen.keys() == {"robust", "permuted", "jacobian"}
    assert chosen["robust"] <= 0.02
    assert chosen["permuted"] < 0.05


def test_trials_outside_of_a_changed_range_do_not_count_until_it_is_back(store: Store) -> None:
    of = study("adversarial", "robust")
    narrow = study("adversarial", robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.08, 0.2]"))
    drain(of, store)
    before = {number: record["key"] for number, record in searched(of, store, "robust").items()}
    drain(narrow, store)
    trials = searched(narrow, store, "robust")
    assert 0 < sum(record["key"] == before[number] for number, record in trials.items()) < 6 == len(trials)
    assert all(record["recipe"]["params"]["lambda"] >= 0.08 for record in trials.values())
    assert drain(of, store) == []


def test_a_search_continues_after_its_choices_got_one_more_value(store: Store) -> None:
    of = study("adversarial", "robust")
    for item in steps(Dispatcher(of, store, "f")):
        if item.number == 3:
            break
    grown = study("adversarial", robust=ARMS["robust"].replace("[0.0, 1.0]", "[0.0, 1.0, 2.0]"))
    assert [item.number for item in drain(grown, store) if item.role == "search"] == [3, 4, 5]


@pytest.mark.parametrize(
    ("lost", "blocked", "failures"),
    [
        (("robust", "search"), {"robust", "permuted", "jacobian"}, 6),
        (("adversarial", "repeat"), {"robust", "permuted", "jacobian"}, 2),
    ],
)
def test_a_lost_arm_blocks_the_arms_that_need_it_until_it_is_retried(
    store: Store, lost: tuple[str, str], blocked: set[str], failures: int
) -> None:
    of = study()
    ran = drain(of, store, failing(lambda item: (item.arm, item.role) == lost))
    assert graph.blocked_arms(of, Dispatcher(of, store, "f").state).keys() == blocked
    assert blocked.isdisjoint(item.arm for item in ran if item.role == "repeat")
    assert drain(of, store) == []
    assert store.delete_failures() == failures
    assert len(drain(of, store)) == graph.count_parts(of) - len(ran) + failures


@pytest.mark.parametrize("workers", [1, 8])
def test_equal_items_run_once_and_count_for_each_arm(store: Store, workers: int) -> None:
    of = study("standard", **TWINS, two=TWINS["one"], again="{method: standard}")
    ran = drain(of, store, workers=workers)
    assert len({item.key for item in ran}) == len(ran)
    assert sum(item.role == "search" for item in ran) == 2
    assert sum(item.role == "repeat" and item.recipe.method == "standard" for item in ran) == 2
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total() == len(store.records())
    for arm in ("one", "two"):
        assert set(searched(of, store, arm)) == set(range(8))
        trials = open_journal(store.journal).get_all_trials(open_journal(store.journal).get_study_id_from_name(arm))
        assert sorted(trial.user_attrs["number"] for trial in trials) == list(range(8))


def test_on_a_gpu_one_item_repeats_all_missing_seeds(store: Store) -> None:
    ran = drain(study(gpus=1), store)
    assert [item.seeds for item in ran if item.role == "repeat"] == [(0, 1)] * 5
    assert all(item.seeds == (0,) for item in ran if item.role != "repeat")
    assert {(item.role, item.seeds) for item in drain(study(gpus=1, seeds="[0, 1, 2, 5]"), store)} == {
        ("repeat", (2, 5))
    }
    assert [(item.role, item.seeds) for item in drain(study(seeds="[0, 1, 2, 5, 6]"), store)] == [("repeat", (6,))] * 5


MEDIAN = ARMS["robust"].replace("trials: 6", "trials: 8, pruner: median")


def with_curve(item: Item) -> Record:
    """The closed form with a curve that rises to 0.6 in the second epoch."""
    curve = [{"val/adv_accuracy": value} for value in (0.5, 0.6, 0.6)]
    return worker(item) | {"curves": {str(seed): curve for seed in item.seeds}}


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_pruner_gets_all_epochs_of_an_interrupted_trial(store: Store, interrupted: bool) -> None:
    """A trial with its best epoch before a kill continues; a trial that a kill saved from its pruner is stopped."""
    of = study("adversarial", robust=MEDIAN)
    dispatcher = Dispatcher(of, store, "f")
    trials = {
        item.number: item for item in islice(steps(dispatcher, with_curve, workers=2), 11) if item.role == "search"
    }
    good, bad = max(trials), max(trials) - 1
    first, second = ({"epoch": epoch, "val/adv_accuracy": value} for epoch, value in ((1, 0.9), (2, 0.3)))
    poor = {"epoch": 1, "val/adv_accuracy": 0.1}
    assert dispatcher.epoch(trials[good], first) is None
    if interrupted:
        dispatcher = Dispatcher(of, store, "f")
        assert [dispatcher.next(), dispatcher.next()] == [trials[bad], trials[good]]
        assert dispatcher.epoch(trials[good], first, second) is None
    else:
        assert dispatcher.epoch(trials[good], second) is None
    assert dispatcher.epoch(trials[bad], poor, second) == poor
    assert dispatcher.prune(trials[bad], poor, seconds=2.0, spent={"train": 2.0})["epochs"] == 1
    (record,) = [other for other in store.records() if other["state"] == "pruned"]
    assert (record["metrics"], record["spent"]) == ({"0": {"val/adv_accuracy": 0.1}}, {"train": 2.0})


def pruned(of: Study, store: Store, count: int) -> list[Item]:
    """Run the first trials of ``robust``, and prune every second one."""
    dispatcher = Dispatcher(of, store, "f")
    trials = []
    while len(trials) < count and isinstance(item := dispatcher.next(), Item):
        if item.role == "search" and item.number % 2:
            dispatcher.prune(item, {"epoch": 1, "val/adv_accuracy": 0.9})
        else:
            store.write_record(worker(item))
            dispatcher.finish(item, worker(item))
        trials += [item] * (item.role == "search")
    return trials


def test_pruned_trials_run_again_without_the_pruner(store: Store) -> None:
    before = pruned(study("adversarial", robust=MEDIAN), store, 6)
    of = study("adversarial", robust=MEDIAN.replace(", pruner: median", ""))
    again = next(item for item in steps(Dispatcher(of, store, "f")) if item.role == "search")
    assert again.number == 1
    assert [item.number for item in drain(of, store) if item.role == "search"] == [1, 3, 5, 6, 7]
    assert {record["state"] for record in searched(of, store, "robust").values()} == {"done"}
    whole = {item.number: item.key for item in before if item.number % 2 == 0}
    assert whole.items() <= {n: record["key"] for n, record in searched(of, store, "robust").items()}.items()
    assert drain(of, store) == []


GRID = "{method: jacobian, search: {maximize: val/adv_accuracy, grid: {lambda_j: [0.01, 0.1]}%s}}"


@pytest.mark.parametrize("running", [False, True])
def test_a_pruned_trial_is_no_result_of_an_equal_arm_without_a_pruner(store: Store, running: bool) -> None:
    of = study("standard", early=GRID % ", pruner: median", late=GRID % "", seeds="[0]")
    dispatcher = Dispatcher(of, store, "f")
    items = [item for item in (dispatcher.next() for _ in range(3)) if isinstance(item, Item)]
    assert [item.arm for item in items] == ["standard", "early", "early"]
    if running:
        assert dispatcher.next() is Pause.WAIT  # the other arm has equal trials
    for item in items[1:]:
        dispatcher.prune(item, {"epoch": 1, "val/adv_accuracy": 0.9})
    store.write_record(worker(items[0]))
    dispatcher.finish(items[0], worker(items[0]))
    if not running:
        dispatcher = Dispatcher(of, store, "f")
    again = [item for item in steps(dispatcher) if item.role == "search"]
    assert [(item.arm, item.number, item.key) for item in again] == [("late", n, items[1 + n].key) for n in (0, 1)]
    assert {record["state"] for record in searched(of, store, "late").values()} == {"done"}
    assert drain(of, store) == []


def test_records_of_another_format_are_ignored(store: Store) -> None:
    of = study("standard")
    drain(of, store)
    store.write_record(store.records()[0] | {"format": 0, "recipe": "of old"})
    assert len(drain(of, store)) == 1
