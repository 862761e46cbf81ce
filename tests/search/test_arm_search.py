"""One Optuna study per arm: the journal agrees with the ledger, and proposals depend on nothing else."""

import random
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from helpers.trials import BEST, MATCH, MEDIAN, SPACE, TARGET, adv_accuracy, journal_trials, open_search, trial_record
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tune_interpreg import seeding
from tune_interpreg.search.arm_search import ArmSearch
from tune_interpreg.search.choice import best_trial, choose
from tune_interpreg.search.journal import open_journal
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.metric_names import VAL_ACCURACY, VAL_ADV_ACCURACY
from tune_interpreg.study.space import Range, Search


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "optuna.journal"


def extend(
    search: Search,
    count: int,
    records: list[Record],
    path: Path | None = None,
    target: Target = TARGET,
    seed: int = 0,
) -> list[Record]:
    """Return ``records`` and ``count`` more, proposed and settled one after another."""
    records, arm = list(records), open_search(search, records, path, target=target, seed=seed)
    for number in range(len(records), len(records) + count):
        records.append(trial_record(number, arm.propose(number)))
        arm.tell(records[-1])
    return records


def keys(records: list[Record]) -> list[str]:
    return [record["key"] for record in records]


# ----------------------------------------------------------------- the journal
def test_the_journal_agrees_with_the_ledger_after_each_trial(path: Path) -> None:
    arm = open_search(BEST, [], path)
    states: list[ledger.RecordState] = ["done", "failed", "pruned", "done"]
    for number, state in enumerate(states):
        record = trial_record(number, arm.propose(number), state)
        arm.tell(record)
        trial = journal_trials(path)[number]
        assert trial.params == record["recipe"]["params"]
        assert trial.user_attrs == {"number": number, "key": record["key"], "state": state}
        assert trial.value == (None if state == "failed" else adv_accuracy(trial.params))
    expected = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE]
    assert [trial.state for trial in journal_trials(path)] == expected


def test_a_match_stores_the_distance_as_value_and_the_signed_residual(path: Path) -> None:
    arm = open_search(MATCH, [], path)
    states: list[ledger.RecordState] = ["done", "done", "done", "done", "diverged", "failed"]
    for number, state in enumerate(states):
        arm.tell(trial_record(number, arm.propose(number), state))
    *done, diverged, failed = journal_trials(path)
    for trial in done:
        residual = 2 * trial.params["lambda"] ** 0.5 - TARGET.loss
        assert (trial.value, trial.user_attrs["residual"]) == (abs(residual), residual)
    assert {trial.user_attrs["residual"] > 0 for trial in done} == {True, False}
    assert (diverged.user_attrs["sign"], diverged.value, diverged.state) == (1, None, TrialState.FAIL)
    assert not {"sign", "residual"} & failed.user_attrs.keys()


@pytest.mark.parametrize("search", [MEDIAN, MATCH])
def test_a_journal_that_agrees_with_the_ledger_is_not_written(path: Path, search: Search) -> None:
    records = extend(search, 3, [], path)
    states: list[ledger.RecordState] = ["diverged"] if search is MATCH else ["pruned", "diverged"]
    for state in states:
        arm = open_search(search, records, path)
        records.append(trial_record(len(records), arm.propose(len(records)), state))
        arm.tell(records[-1])
    before = path.read_bytes()
    open_search(search, records, path)
    assert path.read_bytes() == before


def test_trials_that_a_dead_driver_left_open_disappear(path: Path) -> None:
    """Running trials far away and a waiting trial neither survive nor change a proposal."""
    records = extend(BEST, 5, [], path)
    arm = open_search(BEST, records, path)
    for number in (5, 6, 7):
        arm.propose(number, {"lambda": 0.002, "phi": 1.0})
    optuna.load_study(study_name="arm", storage=open_journal(path)).enqueue_trial({"lambda": 0.8, "phi": 1.0})
    states = [trial.state for trial in journal_trials(path)]
    assert states[5:] == [TrialState.RUNNING] * 3 + [TrialState.WAITING]
    again = open_search(BEST, records, path)
    assert [trial.user_attrs["key"] for trial in journal_trials(path)] == keys(records)
    assert again.propose(5) == open_search(BEST, records).propose(5)


def test_the_study_is_rebuilt_if_the_ledger_differs(path: Path) -> None:
    """A trial with another value, fewer trials, none, a wider range, another goal."""
    records = extend(BEST, 4, [], path)
    changed = trial_record(3, records[3]["recipe"]["params"], metrics={VAL_ADV_ACCURACY: 0.5})
    for ledger_now in ([*records[:3], changed], records[1:], []):
        open_search(BEST, ledger_now, path)
        values = [record["metrics"][VAL_ADV_ACCURACY] for record in ledger_now]
        assert [trial.value for trial in journal_trials(path)] == values
    wide = {"lambda": Range(log_uniform=(0.0001, 1.0)), "phi": Range(choice=(0.0, 1.0, 2.0))}
    arm = open_search(BEST.model_copy(update={"space": wide}), records, path)
    assert {arm.propose(number)["phi"] for number in range(5, 40)} == {0.0, 1.0, 2.0}
    open_search(MATCH, [], path)
    study = optuna.load_study(study_name="arm", storage=open_journal(path))
    assert study.direction == StudyDirection.MINIMIZE


def test_two_arms_share_a_journal_and_nothing_else(path: Path) -> None:
    storage = open_journal(path)
    arms = [ArmSearch(n, BEST, seed=0, storage=storage, target=None, records=[]) for n in ("arm", "other")]
    assert arms[0].propose(0) != arms[1].propose(0)
    assert len(journal_trials(path)) == 1


# ------------------------------------------------------------------ proposals
@pytest.mark.parametrize("search", [BEST, MATCH])
def test_proposals_depend_on_seed_number_and_ledger_only(path: Path, search: Search) -> None:
    records = extend(search, 7, [])
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert keys(extend(search, 7, [], path)) == keys(records)
    for count in (3, 5, 6):
        assert keys(extend(search, 7 - count, records[:count])) == keys(records)
    assert extend(search, 1, [], seed=1)[0]["key"] != records[0]["key"]
    assert len(set(keys(records))) == 7


@pytest.mark.parametrize("search", [BEST, MATCH])
def test_parallel_proposals_differ(search: Search) -> None:
    arm = open_search(search, extend(search, 5, []))
    proposed = [arm.propose(number)["lambda"] for number in range(5, 11)]
    assert len(set(proposed)) == 6
    assert all(SPACE["lambda"].contains(value) for value in proposed)


def test_an_earlier_proposal_can_be_repeated(path: Path) -> None:
    arm = open_search(BEST, [*extend(BEST, 4, []), trial_record(4, {"lambda": 0.7, "phi": 1.0}, "diverged")], path)
    params = {"lambda": 0.7123456789012345, "phi": 1.0}
    assert arm.propose(5, {"norm": "batch", **params}) == params
    for record in (trial_record(5, params), trial_record(6, params)):  # trial 6 was not proposed here
        arm.tell(record)
    assert journal_trials(path)[-1].user_attrs["key"] == trial_record(5, params)["key"]
    assert arm.propose(7) != params


def test_tpe_proposes_what_a_plain_optuna_study_proposes() -> None:
    """A search adds nothing to Optuna's TPE but the seed of each trial."""
    records = extend(BEST, 10, [])
    proposed = open_search(BEST, records).propose(10)
    plain = optuna.create_study(direction="maximize")
    distributions = {"lambda": FloatDistribution(0.001, 1.0, log=True), "phi": CategoricalDistribution((0.0, 1.0))}
    for record in records:
        params = record["recipe"]["params"]
        plain.add_trial(optuna.create_trial(value=adv_accuracy(params), params=params, distributions=distributions))
    plain.sampler = optuna.samplers.TPESampler(seed=seeding.number(0, "search", "arm", 10) % 2**32, n_startup_trials=4)
    assert plain.ask(distributions).params == proposed


def test_a_search_finds_the_peak_of_the_closed_form() -> None:
    best = best_trial(BEST, extend(BEST.model_copy(update={"trials": 25}), 25, []))
    assert best is not None
    assert best["recipe"]["params"] == {"lambda": pytest.approx(0.1, rel=0.3), "phi": 0.0}


@pytest.mark.parametrize("root", [0.01, 0.07, 0.4])
def test_a_match_finds_the_strength_of_the_closed_form_in_eight_trials(root: float) -> None:
    target = Target(loss=2 * root**0.5, noise=0.001, error=0.0005, reference="ab")
    choice = choose(MATCH, extend(MATCH, 8, [], target=target), target)
    assert choice is not None
    assert choice.feasible
    assert choice.params["lambda"] == pytest.approx(root, rel=0.05)


# -------------------------------------------------------------------- pruning
def report(arm: ArmSearch, number: int, curve: list[float]) -> list[bool]:
    return [arm.should_prune(number, epoch, {VAL_ADV_ACCURACY: value}) for epoch, value in enumerate(curve, 1)]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_median_pruner_stops_a_clearly_worse_trial(path: Path, resumed: bool) -> None:
    arm, records = open_search(MEDIAN, [], path), []
    for number in range(4):
        params = arm.propose(number)
        assert report(arm, number, [0.5, 0.6]) == [False, False]
        curve = [{VAL_ADV_ACCURACY: value} for value in (0.5, 0.6)]
        records.append(trial_record(number, params, metrics=curve[-1]) | {"curve": curve})
        arm.tell(records[-1])
    if resumed:
        path.unlink()
        arm = open_search(MEDIAN, records, path)
    for number in (4, 5):
        arm.propose(number)
    assert report(arm, 4, [0.1]) == [True]
    assert report(arm, 5, [0.7, 0.8]) == [False, False]


def test_an_epoch_that_is_reported_again_is_ignored(path: Path) -> None:
    arm = open_search(MEDIAN, extend(MEDIAN, 6, []), path)
    arm.propose(6)
    assert report(arm, 6, [0.7]) == [False]
    assert report(arm, 6, [0.0, 0.0]) == [False, False]
    assert journal_trials(path)[6].intermediate_values == {1: 0.7, 2: 0.0}


@pytest.mark.parametrize(
    ("search", "metric"), [(BEST, VAL_ADV_ACCURACY), (MATCH, VAL_ADV_ACCURACY), (MEDIAN, VAL_ACCURACY)]
)
def test_nothing_is_pruned_without_a_pruner_or_by_another_metric(search: Search, metric: str) -> None:
    arm = open_search(search, extend(search, 6, []))
    arm.propose(6)
    assert not any(arm.should_prune(6, epoch, {metric: 0.0}) for epoch in (1, 2))
