"""Studies that lose a third of their search trials: none stalls, whatever proposes, and the other trials count."""

from itertools import islice
from pathlib import Path

import pytest
from helpers.closed_form import drain, failing, steps, strength, study, worker

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item

SPACE = "space: {lambda_j: {log_uniform: [0.001, 1.0]}, norm: {choice: [batch, sample]}}"
METRICS = "maximize: [val/accuracy, val/adv_accuracy], pick: {best: val/adv_accuracy, within: {val/accuracy: 0.1}}"
SEARCHES = {
    "match": "match_loss_of: reference, trials: 9, space: {lambda_j: {log_uniform: [0.001, 1.0]}}, tolerance: 1.0e-9",
    "match of choices": f"match_loss_of: reference, trials: 12, {SPACE}, tolerance: 1.0e-9",
    "tpe": f"maximize: val/adv_accuracy, trials: 12, {SPACE}",
    "median": f"maximize: val/adv_accuracy, trials: 12, pruner: median, {SPACE}",
    "gp": f"maximize: val/adv_accuracy, trials: 9, sampler: gp, {SPACE}",
    "pareto": f"{METRICS}, trials: 12, {SPACE}",
    "grid": "maximize: val/adv_accuracy, grid: {lambda_j: [0.01, 0.03, 0.1, 0.3, 1.0], norm: [batch, sample]}",
}


def of(kind: str) -> Study:
    arm = f"{{method: jacobian, search: {{{SEARCHES[kind]}}}}}"
    return study("standard", reference="{method: jacobian, lambda_j: 0.1}", arm=arm)


def state_of(number: int, strength: float) -> ledger.RecordState:
    """Every third trial is lost: above the reference's strength it diverges, below it its worker dies."""
    return "done" if number % 3 != 1 else "diverged" if strength > 0.1 else "failed"


def answer(item: Item) -> Record:
    state = state_of(item.number, strength(item)) if item.role == "search" else "done"
    return worker(item) if state == "done" else ledger.make_record(item, state, error="as asked")


def searched(kind: str, store: Store) -> list[Record]:
    """The search trials in the ledger."""
    return [one for one in Dispatcher(of(kind), store, "f").records.values() if one["role"] == "search"]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("kind", SEARCHES)
def test_a_study_that_loses_a_third_of_its_trials_drains(kind: str, workers: int, tmp_path: Path) -> None:
    """Every trial runs once and is in the ledger as what it is; the arm is repeated with what was done."""
    wanted, store = of(kind), Store(tmp_path)
    ran = drain(wanted, store, answer, workers=workers)
    assert len(ran) == len({item.key for item in ran})
    records = searched(kind, store)
    assert sorted(one["number"] for one in records) == list(range(wanted.arms["arm"].search.trials))
    for one in records:
        assert one["state"] == state_of(one["number"], one["recipe"]["params"]["lambda_j"])
    assert [item.seeds for item in ran if (item.arm, item.role) == ("arm", "repeat")] == [(0,), (1,)]
    state = Dispatcher(wanted, store, "f").state
    assert not graph.blocked_arms(wanted, state)
    assert drain(wanted, store, answer) == []


@pytest.mark.parametrize("kind", ["match", "tpe", "pareto", "grid"])
def test_killed_among_lost_trials_it_goes_on_as_it_would_have(kind: str, tmp_path: Path) -> None:
    whole = drain(of(kind), Store(tmp_path / "whole"), answer)
    store = Store(tmp_path / "killed")
    begun = list(islice(steps(Dispatcher(of(kind), store, "f"), answer), 11))
    assert begun[:-1] + drain(of(kind), store, answer) == whole


@pytest.mark.parametrize("state", ["diverged", "failed"])
@pytest.mark.parametrize("kind", SEARCHES)
def test_where_every_trial_is_lost_the_arm_waits_and_the_others_are_done(
    kind: str, state: ledger.RecordState, tmp_path: Path
) -> None:
    def lost(item: Item) -> Record:
        return ledger.make_record(item, state, error="as asked") if item.role == "search" else worker(item)

    wanted, store = of(kind), Store(tmp_path)
    ran = drain(wanted, store, lost, workers=3)
    assert {one["state"] for one in searched(kind, store)} == {state}
    assert {item.arm for item in ran if item.role == "repeat"} == {"standard", "reference"}
    waiting = graph.blocked_arms(wanted, Dispatcher(wanted, store, "f").state)
    assert waiting == {"arm": "no trial of its search finished"}


def test_maps_that_are_not_finite_hold_back_their_pupils_and_nobody_else(tmp_path: Path) -> None:
    """The arms that wait for them say so; they are not made again, for the teacher would give the same."""
    wanted, store = study(), Store(tmp_path)
    answer_of_a_bad_teacher = failing(lambda item: item.role == "targets", "diverged")
    ran = drain(wanted, store, answer_of_a_bad_teacher)
    assert [(item.arm, item.role) for item in ran if item.role != "repeat"] == [("adversarial", "targets")]
    assert sorted(item.arm for item in ran if item.role == "repeat") == ["adversarial"] * 2 + ["standard"] * 2
    waiting = graph.blocked_arms(wanted, Dispatcher(wanted, store, "f").state)
    without = "has no target maps: the teacher adversarial gave none"
    assert waiting == {
        "robust": without,
        "permuted": without,
        "jacobian": "has no loss to match: no seed of robust finished",
    }
    assert drain(wanted, store) == []
    assert store.delete_failures() == 0
