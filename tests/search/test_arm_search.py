"""One Optuna study per arm: the journal agrees with the ledger, and proposals depend on nothing else."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from helpers.trials import BEST, MATCH, MEDIAN, SPACE, TARGET, adv_accuracy, journal_trials, open_search, trial_record
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from tune_interpreg import seeding
from tune_interpreg.search.arm_search import ArmSearch, KnownSpaceSampler
from tune_interpreg.search.bounds import Bounds
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
    trials = {record["number"]: record for record in records}
    arm = open_search(search, trials, path, target=target, seed=seed)
    for number in range(len(records), len(records) + count):
        trials[number] = trial_record(number, arm.propose(number))
    arm.finish()
    return list(trials.values())


def keys(records: list[Record]) -> list[str]:
    return [record["key"] for record in records]


# ----------------------------------------------------------------- the journal
@pytest.mark.parametrize("parallel", [1, 3])
def test_the_journal_holds_the_results_that_the_next_proposal_knows(path: Path, parallel: int) -> None:
    trials: dict[int, Record] = {}
    arm = open_search(BEST.model_copy(update={"parallel": parallel}), trials, path)
    states: list[ledger.RecordState] = ["done", "failed", "pruned", "done", "done"]
    optuna_states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE]
    for number, state in enumerate(states):
        params = arm.propose(number)
        known = max(0, number + 1 - parallel)
        journal = journal_trials(path)
        assert [trial.state for trial in journal] == optuna_states[:known] + [TrialState.RUNNING] * (number + 1 - known)
        assert [trial.params for trial in journal[:-1]] == [trials[n]["recipe"]["params"] for n in range(number)]
        trials[number] = trial_record(number, params, state)
    arm.finish()
    assert [trial.state for trial in journal_trials(path)] == optuna_states
    for trial, record in zip(journal_trials(path), trials.values(), strict=True):
        expected = {"number": record["number"], "key": record["key"], "state": record["state"]}
        assert (trial.number, trial.user_attrs) == (record["number"], expected)
        assert trial.value == (None if record["state"] == "failed" else adv_accuracy(trial.params))


def test_a_match_stores_the_distance_as_value_and_the_signed_residual(path: Path) -> None:
    trials: dict[int, Record] = {}
    arm = open_search(MATCH, trials, path)
    states: list[ledger.RecordState] = ["done", "done", "done", "done", "diverged", "failed"]
    for number, state in enumerate(states):
        trials[number] = trial_record(number, arm.propose(number), state)
    arm.finish()
    *done, diverged, failed = journal_trials(path)
    for trial in done:
        residual = 2 * trial.params["lambda"] ** 0.5 - TARGET.loss
        assert (trial.value, trial.user_attrs["residual"]) == (abs(residual), residual)
    assert {trial.user_attrs["residual"] > 0 for trial in done} == {True, False}
    assert (diverged.user_attrs["sign"], diverged.value, diverged.state) == (1, None, TrialState.FAIL)
    assert not {"sign", "residual"} & failed.user_attrs.keys()


def test_trials_that_a_dead_driver_left_open_disappear(path: Path) -> None:
    """Running trials far away and a waiting trial neither survive nor change a proposal."""
    records = extend(BEST, 5, [], path)
    arm = open_search(BEST, records, path)
    for number in (5, 6, 7):
        arm.propose(number, {"lambda": 0.002, "phi": 1.0})
    optuna.load_study(study_name="arm", storage=open_journal(path)).enqueue_trial({"lambda": 0.8, "phi": 1.0})
    assert [trial.state for trial in journal_trials(path)][5:] == [TrialState.RUNNING] * 3 + [TrialState.WAITING]
    again = open_search(BEST, records, path)
    assert again.propose(5) == open_search(BEST, records).propose(5)
    assert len(journal_trials(path)) == 6


def test_the_study_is_made_again_from_the_ledger(path: Path) -> None:
    """A trial with another value, fewer trials, none, a wider range, another goal."""
    records = extend(BEST, 4, [], path)
    changed = trial_record(3, records[3]["recipe"]["params"], metrics={VAL_ADV_ACCURACY: 0.5})
    for ledger_now in ([*records[:3], changed], records[:2], []):
        open_search(BEST, ledger_now, path).finish()
        values = [record["metrics"][VAL_ADV_ACCURACY] for record in ledger_now]
        assert [trial.value for trial in journal_trials(path)] == values
    wide = {"lambda": Range(log_uniform=(0.0001, 1.0)), "phi": Range(choice=(0.0, 1.0, 2.0))}
    search = BEST.model_copy(update={"space": wide, "parallel": 40})
    arm = open_search(search, records, path)
    assert {arm.propose(number)["phi"] for number in range(4, 40)} == {0.0, 1.0, 2.0}
    open_search(MATCH, [], path)
    study = optuna.load_study(study_name="arm", storage=open_journal(path))
    assert study.direction == StudyDirection.MINIMIZE


def test_two_arms_share_a_journal_and_nothing_else(path: Path) -> None:
    storage = open_journal(path)
    arms = [ArmSearch(n, BEST, seed=0, storage=storage, target=None, trials={}, epochs=2) for n in ("arm", "other")]
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
    arm = open_search(search.model_copy(update={"parallel": 6}), extend(search, 6, []))
    proposed = [arm.propose(number)["lambda"] for number in range(6, 12)]
    assert len(set(proposed)) == 6
    assert all(SPACE["lambda"].contains(value) for value in proposed)


def test_an_earlier_proposal_can_be_repeated(path: Path) -> None:
    records = [*extend(BEST, 4, []), trial_record(4, {"lambda": 0.7, "phi": 1.0}, "diverged")]
    arm = open_search(BEST, records, path)
    params = {"lambda": 0.7123456789012345, "phi": 1.0}
    assert arm.propose(5, {"norm": "batch", **params}) == params
    assert journal_trials(path)[-1].params == params
    assert arm.propose(5) == params
    assert arm.propose(6) != params


@pytest.mark.parametrize("search", [BEST, MATCH])
def test_a_lost_trial_gets_the_parameters_that_it_had(search: Search) -> None:
    """Later trials have ended since. They do not change what it was proposed from."""
    records = extend(search, 9, [])
    for number in (0, 2, 6, 8):
        rest = [record for record in records if record["number"] != number]
        assert open_search(search, rest).propose(number) == records[number]["recipe"]["params"]


def test_a_gaussian_process_proposes_the_same_with_any_number_of_threads() -> None:
    search = BEST.model_copy(update={"sampler": "gp"})
    records, proposed = extend(BEST.model_copy(update={"trials": 60}), 60, []), []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            proposed.append(open_search(search, records).propose(60))
    assert proposed[0] == proposed[1] == proposed[2]


def test_tpe_proposes_what_a_plain_optuna_study_proposes() -> None:
    """A search adds nothing to Optuna's TPE but the seed of each trial."""
    search = BEST.model_copy(update={"parallel": 1})
    records = extend(search, 10, [])
    proposed = open_search(search, records).propose(10)
    plain = optuna.create_study(direction="maximize")
    distributions = {"lambda": FloatDistribution(0.001, 1.0, log=True), "phi": CategoricalDistribution((0.0, 1.0))}
    for record in records:
        params = record["recipe"]["params"]
        plain.add_trial(optuna.create_trial(value=adv_accuracy(params), params=params, distributions=distributions))
    plain.sampler = optuna.samplers.TPESampler(seed=seeding.number(0, "search", "arm", 10) % 2**32, n_startup_trials=4)
    assert plain.ask(distributions).params == proposed


def test_a_search_finds_the_peak_of_the_closed_form() -> None:
    best = best_trial(BEST, extend(BEST.model_copy(update={"trials": 25}), 25, []), Bounds())
    assert best is not None
    assert best["recipe"]["params"] == {"lambda": pytest.approx(0.1, rel=0.3), "phi": 0.0}


@pytest.mark.parametrize("root", [0.01, 0.07, 0.4])
def test_a_match_finds_the_strength_of_the_closed_form_in_eight_trials(root: float) -> None:
    target = Target(loss=2 * root**0.5, noise=0.001, error=0.0005)
    choice = choose(MATCH, extend(MATCH, 8, [], target=target), target)
    assert choice is not None
    assert choice.feasible
    assert choice.params["lambda"] == pytest.approx(root, rel=0.05)


# -------------------------------------------------------------------- pruning
def report(arm: ArmSearch, number: int, curve: list[float]) -> list[bool]:
    return [arm.should_prune(number, epoch, {VAL_ADV_ACCURACY: value}) for epoch, value in enumerate(curve, 1)]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_median_pruner_stops_a_clearly_worse_trial(resumed: bool) -> None:
    trials: dict[int, Record] = {}
    arm = open_search(MEDIAN, trials)
    for number in range(7):
        params = arm.propose(number)
        assert report(arm, number, [0.5, 0.6]) == [False, False]
        curve = [{VAL_ADV_ACCURACY: value} for value in (0.5, 0.6)]
        trials[number] = trial_record(number, params, metrics=curve[-1]) | {"curve": curve}
    if resumed:
        arm = open_search(MEDIAN, trials)
    for number in (7, 8):
        arm.propose(number)
    assert report(arm, 7, [0.1]) == [True]
    assert report(arm, 8, [0.7, 0.8]) == [False, False]
    assert arm.pruning is not None
    assert arm.pruning.list_reports(8) == [{VAL_ADV_ACCURACY: 0.7}, {VAL_ADV_ACCURACY: 0.8}]


def test_an_epoch_that_is_reported_again_is_ignored() -> None:
    arm = open_search(MEDIAN, extend(MEDIAN, 9, []))
    arm.propose(9)
    assert report(arm, 9, [0.7]) == [False]
    assert report(arm, 9, [0.0, 0.0]) == [False, False]
    assert arm.pruning is not None
    assert arm.pruning.list_reports(9) == [{VAL_ADV_ACCURACY: 0.7}, {VAL_ADV_ACCURACY: 0.0}]


@pytest.mark.parametrize(
    ("search", "metric"), [(BEST, VAL_ADV_ACCURACY), (MATCH, VAL_ADV_ACCURACY), (MEDIAN, VAL_ACCURACY)]
)
def test_nothing_is_pruned_without_a_pruner_or_by_another_metric(search: Search, metric: str) -> None:
    arm = open_search(search, extend(search, 9, []))
    arm.propose(9)
    assert not any(arm.should_prune(9, epoch, {metric: 0.0}) for epoch in (1, 2))


def test_a_known_space_changes_no_proposal_of_tpe() -> None:
    space = {
        "lambda": FloatDistribution(0.001, 1.0, log=True),
        "phi": CategoricalDistribution((0.0, 0.5, 1.0)),
        "fixed": FloatDistribution(2.0, 2.0),
    }

    def propose(make: Callable[[int], optuna.samplers.BaseSampler]) -> list[dict[str, Any]]:
        study, running = optuna.create_study(direction="maximize"), list[optuna.Trial]()
        for number in range(40):
            study.sampler = make(number)
            running.append(study.ask(space))
            if len(running) == 3:
                trial = running.pop(0)
                lost = trial.number % 11 == 3
                value = None if lost else -trial.params["lambda"] - trial.params["phi"]
                study.tell(trial, value, state=TrialState.FAIL if lost else None)
        return [trial.params for trial in study.trials]

    assert propose(lambda seed: KnownSpaceSampler(space, seed=seed, n_startup_trials=5)) == propose(
        lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    )
