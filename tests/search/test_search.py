"""One Optuna study an arm: what the journal holds is what the ledger says, and proposals rest on nothing else."""

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune_interpreg.search.arm_search import ArmSearch, to_distribution
from tune_interpreg.search.choosing import choose
from tune_interpreg.search.journal import open_journal
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.study.space import Range, Search

LAMBDA = Range(log_uniform=(0.001, 1.0))
PHI = Range(choice=(0.0, 1.0))
BEST = Search(space={"lambda": LAMBDA, "phi": PHI}, maximize="val/adv_accuracy", trials=12)
MEDIAN = BEST.model_copy(update={"pruner": "median"})
MATCH = Search(space={"lambda": LAMBDA}, match_loss_of="robust", trials=8)
TARGET = Target(loss=1.0, noise=0.01, error=0.005, reference="ab")


def item(number: int, params: Mapping[str, Scalar]) -> Item:
    return Item(arm="arm", role="search", recipe=Recipe(method="m", params=dict(params)), seeds=(0,), number=number)


def record(number: int, params: Mapping[str, Scalar], state: ledger.RecordState = "done", **metrics: float) -> Record:
    known = {"train/loss": 2 * float(params["lambda"]) ** 0.5, "val/adv_accuracy": accuracy(params)} | metrics
    by_seed = {0: {name.replace("_loss", "/loss"): value for name, value in known.items()}}
    return ledger.make_record(item(number, params), state, metrics=by_seed if state in ("done", "pruned") else {}, epochs=2)


def accuracy(params: Mapping[str, Scalar]) -> float:
    return math.exp(-(math.log(float(params["lambda"]) / 0.1) ** 2)) - 0.1 * float(params.get("phi", 0.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "optuna.journal"


def opened(path: Path, search: Search, records: list[Record], **other: Any) -> ArmSearch:
    target = TARGET if search.match_loss_of else None
    storage = open_journal(path) if path.name != "memory" else optuna.storages.InMemoryStorage()
    return ArmSearch("arm", search, **{"seed": 0, "storage": storage, "target": target, "records": records} | other)


def in_journal(path: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="arm", storage=open_journal(path)).trials


def searched(
    search: Search, count: int, records: list[Record], path: Path = Path("memory"), **other: Any
) -> list[Record]:
    """``records`` and ``count`` more, one after another."""
    held, arm = list(records), opened(path, search, records, **other)
    for number in range(len(records), len(records) + count):
        held.append(record(number, arm.propose(number)))
        arm.tell(held[-1])
    return held


# ----------------------------------------------------------------- the journal
def test_the_journal_says_after_each_trial_what_the_ledger_says(path: Path) -> None:
    arm = opened(path, BEST, [])
    states: list[ledger.RecordState] = ["done", "failed", "diverged", "pruned", "done"]
    for number, state in enumerate(states):
        settled = record(number, arm.propose(number), state)
        arm.tell(settled)
        trial = in_journal(path)[number]
        assert trial.params == settled["recipe"]["params"]
        assert trial.user_attrs == {"number": number, "key": settled["key"], "state": state}
        assert trial.value == (accuracy(trial.params) if state in ("done", "pruned") else None)
    fail = TrialState.FAIL
    states_there = [trial.state for trial in in_journal(path)]
    assert states_there == [TrialState.COMPLETE, fail, fail, TrialState.PRUNED, TrialState.COMPLETE]


def test_a_match_shows_the_distance_and_keeps_the_signed_residual(path: Path) -> None:
    arm = opened(path, MATCH, [])
    states: list[ledger.RecordState] = ["done", "done", "done", "done", "diverged", "failed"]
    for number, state in enumerate(states):
        arm.tell(record(number, arm.propose(number), state))
    *done, diverged, failed = in_journal(path)
    for trial in done:
        residual = 2 * trial.params["lambda"] ** 0.5 - TARGET.loss
        assert (trial.value, trial.user_attrs["residual"]) == (abs(residual), residual)
    assert {trial.user_attrs["residual"] > 0 for trial in done} == {True, False}
    assert (diverged.user_attrs["sign"], diverged.value, diverged.state) == (1, None, TrialState.FAIL)
    assert not {"sign", "residual"} & failed.user_attrs.keys()
    assert optuna.load_study(study_name="arm", storage=open_journal(path)).direction == StudyDirection.MINIMIZE


def test_a_journal_equal_to_the_ledger_is_gone_on_with(path: Path) -> None:
    for search in (MEDIAN, MATCH):
        records = searched(search, 3, [], path)
        for state in ("pruned", "diverged") if search is MEDIAN else ("diverged",):
            arm = opened(path, search, records)
            records.append(record(len(records), arm.propose(len(records)), state))
            arm.tell(records[-1])
        before = path.read_bytes()
        opened(path, search, records)
        assert path.read_bytes() == before


def test_trials_that_a_dead_driver_left_running_are_gone(path: Path) -> None:
    records = searched(BEST, 3, [], path)
    arm = opened(path, BEST, records)
    arm.propose(3)
    arm.propose(4)
    assert [trial.state for trial in in_journal(path)][3:] == [TrialState.RUNNING] * 2
    opened(path, BEST, records)
    assert [trial.user_attrs["key"] for trial in in_journal(path)] == [one["key"] for one in records]


@pytest.mark.parametrize("change", ["fewer", "none", "another value"])
def test_where_ledger_and_journal_differ_the_ledger_is_right(path: Path, change: str) -> None:
    records = searched(BEST, 4, [], path)
    kept = {"fewer": records[1:], "none": [], "another value": records[:3]}[change]
    if change == "another value":
        kept.append(record(3, records[3]["recipe"]["params"], **{"val/adv_accuracy": 0.5}))
    opened(path, BEST, kept)
    values = [one["metrics"]["0"]["val/adv_accuracy"] for one in kept]
    assert [trial.value for trial in in_journal(path)] == values


def test_a_grown_range_and_another_goal_make_the_study_anew(path: Path) -> None:
    records = searched(BEST, 5, [], path)
    wide = {"lambda": Range(log_uniform=(0.0001, 1.0)), "phi": Range(choice=(0.0, 1.0, 2.0))}
    arm = opened(path, BEST.model_copy(update={"space": wide}), records)
    assert {arm.propose(number)["phi"] for number in range(5, 40)} == {0.0, 1.0, 2.0}
    opened(path, BEST, [])
    opened(path, MATCH, [])
    assert optuna.load_study(study_name="arm", storage=open_journal(path)).direction == StudyDirection.MINIMIZE


def test_two_arms_share_a_journal_and_nothing_else(path: Path) -> None:
    storage = open_journal(path)
    arms = [ArmSearch(n, BEST, seed=0, storage=storage, target=None, records=[]) for n in ("arm", "other")]
    assert arms[0].propose(0) != arms[1].propose(0)
    assert len(in_journal(path)) == 1


def test_a_record_that_was_not_proposed_here_changes_nothing(path: Path) -> None:
    arm = opened(path, BEST, [])
    arm.tell(record(5, {"lambda": 0.1, "phi": 0.0}))
    assert in_journal(path) == []


# ------------------------------------------------------------------ proposals
@pytest.mark.parametrize("search", [BEST, MATCH])
def test_proposals_rest_on_seed_number_and_ledger_alone(path: Path, search: Search) -> None:
    records = searched(search, 7, [])
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert [one["key"] for one in searched(search, 7, [], path)] == [one["key"] for one in records]
    for known in (3, 5, 6):
        again = searched(search, 7 - known, records[:known])
        assert [one["key"] for one in again] == [one["key"] for one in records]
    assert searched(search, 1, [], seed=1)[0]["key"] != records[0]["key"]
    assert len({one["key"] for one in records}) == 7


@pytest.mark.parametrize("search", [BEST, MATCH])
def test_workers_that_ask_at_once_get_different_proposals(search: Search) -> None:
    arm = opened(Path("memory"), search, searched(search, 5, []))
    proposed = [arm.propose(number)["lambda"] for number in range(5, 11)]
    assert len(set(proposed)) == 6
    assert all(search.space["lambda"].contains(value) for value in proposed)


def test_a_proposal_can_be_repeated(path: Path) -> None:
    arm = opened(path, BEST, searched(BEST, 5, []))
    known = {"norm": "batch", "lambda": 0.123, "phi": 1.0}
    assert arm.propose(5, known) == {"lambda": 0.123, "phi": 1.0}
    settled = record(5, {"lambda": 0.123, "phi": 1.0})
    arm.tell(settled)
    assert in_journal(path)[-1].user_attrs["key"] == settled["key"]
    assert arm.propose(6) != {"lambda": 0.123, "phi": 1.0}


def test_a_search_finds_the_peak_of_a_closed_form() -> None:
    found = choose(BEST, searched(BEST.model_copy(update={"trials": 25}), 25, []), None)
    assert found is not None
    assert found.params["phi"] == 0.0
    assert float(found.params["lambda"]) == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("root", [0.01, 0.07, 0.4])
def test_a_match_finds_the_strength_of_a_closed_form_in_eight_trials(root: float) -> None:
    target = Target(loss=2 * root**0.5, noise=0.001, error=0.0005, reference="ab")
    found = choose(MATCH, searched(MATCH, 8, [], target=target), target)
    assert found is not None
    assert found.feasible
    assert found.params["lambda"] == pytest.approx(root, rel=0.05)


def test_ranges_become_optunas_distributions() -> None:
    assert to_distribution(LAMBDA) == optuna.distributions.FloatDistribution(0.001, 1.0, log=True)
    assert to_distribution(Range(uniform=(0.0, 2.0))) == optuna.distributions.FloatDistribution(0.0, 2.0)
    assert to_distribution(PHI) == optuna.distributions.CategoricalDistribution((0.0, 1.0))


# -------------------------------------------------------------------- pruning
def reports(arm: ArmSearch, number: int, curve: list[float]) -> list[bool]:
    return [arm.should_prune(number, epoch, {"val/adv_accuracy": value}) for epoch, value in enumerate(curve, 1)]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_median_pruner_stops_a_trial_that_is_clearly_worse(path: Path, resumed: bool) -> None:
    arm, records = opened(path, MEDIAN, []), []
    for number in range(4):
        params = arm.propose(number)
        assert reports(arm, number, [0.5, 0.6]) == [False, False]
        curve = [{"val/adv_accuracy": value} for value in (0.5, 0.6)]
        records.append(record(number, params, **{"val/adv_accuracy": 0.6}) | {"curves": {"0": curve}})
        arm.tell(records[-1])
    if resumed:
        path.unlink()
        arm = opened(path, MEDIAN, records)
    for number in (4, 5):
        arm.propose(number)
    assert reports(arm, 4, [0.1]) == [True]
    assert reports(arm, 5, [0.7, 0.8]) == [False, False]


def test_an_epoch_that_is_told_again_is_heard_once() -> None:
    arm = opened(Path("memory"), MEDIAN, searched(MEDIAN, 6, []))
    arm.propose(6)
    assert reports(arm, 6, [0.7]) == [False]
    assert reports(arm, 6, [0.0, 0.0]) == [False, False]
    assert arm._live[6].study.trials[6].intermediate_values == {1: 0.7, 2: 0.0}


def test_nothing_is_pruned_that_did_not_ask_for_it() -> None:
    for search in (BEST, MATCH):
        arm = opened(Path("memory"), search, searched(search, 6, []))
        arm.propose(6)
        assert reports(arm, 6, [0.0, 0.0]) == [False, False]
    arm = opened(Path("memory"), MEDIAN, searched(MEDIAN, 6, []))
    arm.propose(6)
    assert not arm.should_prune(6, 1, {"val/accuracy": 0.0})
