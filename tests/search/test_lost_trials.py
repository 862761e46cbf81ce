"""Diverged trials keep a search away from where they lie, and failed trials have no influence.

The accuracy rises with λ in (0.001, 1), and every training above λ = 0.1 diverges. A sampler that ignores diverged
trials follows the rise and loses most of its trials.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.trials import BEST, MATCH, MEDIAN, journal_trials, open_search, trial_record
from optuna.trial import TrialState

from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.metric_names import VAL_ACCURACY, VAL_ADV_ACCURACY
from tune_interpreg.study.space import Condition, Search

pytestmark = pytest.mark.thorough

EDGE = 0.1
BEST = BEST.model_copy(update={"parallel": 1})
BOTH = BEST.model_copy(update={"where": {VAL_ACCURACY: Condition(at_least=0.9)}})
GP = BEST.model_copy(update={"sampler": "gp"})
MATCH = MATCH.model_copy(update={"parallel": 1})
SEARCHES = [search.model_copy(update={"sampler": sampler}) for sampler in ("tpe", "gp") for search in (BEST, BOTH)]
KINDS = ["tpe", "tpe where", "gp", "gp where"]
STRENGTHS = (0.003, 0.15, 0.01, 0.3, 0.03, 0.5, 0.09, 0.8)  # every other one beyond the edge


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "optuna.journal"


def rising(number: int, params: Mapping[str, Scalar], lost: ledger.RecordState) -> Record:
    """Return a trial with accuracies that rise with log λ up to the edge; beyond the edge it is ``lost``."""
    strength, phi = float(params["lambda"]), float(params["phi"])
    metrics = {VAL_ADV_ACCURACY: 0.9 + 0.3 * math.log10(strength) - 0.05 * phi, VAL_ACCURACY: 0.99 - 0.1 * phi}
    return trial_record(number, params, lost if strength > EDGE else "done", metrics)


def first_eight(lost: ledger.RecordState) -> list[Record]:
    points = [{"lambda": strength, "phi": float(number // 2 % 2)} for number, strength in enumerate(STRENGTHS)]
    return [rising(number, params, lost) for number, params in enumerate(points)]


def count_beyond_edge(search: Search, lost: ledger.RecordState) -> int:
    """Count the trials beyond the edge among the four that follow the first eight."""
    trials, count = dict(enumerate(first_eight(lost))), 0
    arm = open_search(search, trials)
    for number in range(8, 12):
        params = arm.propose(number)
        count += float(params["lambda"]) > EDGE
        trials[number] = rising(number, params, lost)
    return count


@pytest.mark.parametrize("search", SEARCHES, ids=KINDS)
def test_proposals_keep_away_from_diverged_trials(search: Search) -> None:
    assert count_beyond_edge(search, "diverged") <= 2
    assert count_beyond_edge(search, "failed") >= 3


@pytest.mark.parametrize("search", SEARCHES, ids=KINDS)
def test_failed_trials_have_no_influence(search: Search) -> None:
    done = [rising(number, {"lambda": 0.002 * 1.5**number, "phi": 0.0}, "diverged") for number in range(6)]
    failed = [trial_record(number, {"lambda": 0.5, "phi": 1.0}, "failed") for number in (6, 7)]
    elsewhere = [trial_record(number, {"lambda": 0.002, "phi": 0.0}, "failed") for number in (6, 7)]
    expected = open_search(search, [*done, *elsewhere]).propose(8)
    assert open_search(search, [*done, *failed]).propose(8) == expected
    diverged = [record | {"state": "diverged"} for record in failed]
    assert open_search(search, [*done, *diverged]).propose(8) != expected


@pytest.mark.parametrize("search", SEARCHES, ids=KINDS)
def test_proposals_after_divergence_depend_on_the_ledger_only(path: Path, search: Search) -> None:
    """A driver that saw the trials diverge and a driver that reads the ledger propose the same."""
    trials: dict[int, Record] = {}
    arm, records = open_search(search, trials, path), first_eight("diverged")
    for record in records:
        arm.propose(record["number"], record["recipe"]["params"])
        trials[record["number"]] = record
    proposed = arm.propose(8)
    for other in (path, None):
        assert open_search(search, records, other).propose(8) == proposed


@pytest.mark.parametrize("search", [BEST, BOTH], ids=KINDS[:2])
def test_while_no_trial_is_done_proposals_cover_the_whole_range(search: Search) -> None:
    trials: dict[int, Record] = {}
    arm, strengths = open_search(search, trials), []
    for number in range(16):
        params = arm.propose(number)
        strengths.append(float(params["lambda"]))
        trials[number] = trial_record(number, params, "diverged")
    assert min(strengths[8:]) < 0.02
    assert max(strengths[8:]) > 0.2


@pytest.mark.parametrize("search", [BEST, BOTH])
def test_a_diverged_trial_ranks_just_below_the_worst_done_trial_that_the_proposal_knows(
    path: Path, search: Search
) -> None:
    """A later worst value lowers the diverged trials, too. A result beyond the known trials does not."""
    trials: dict[int, Record] = {}
    arm, metrics = (
        open_search(search.model_copy(update={"parallel": 2}), trials, path),
        (VAL_ADV_ACCURACY, VAL_ACCURACY),
    )
    states: list[ledger.RecordState] = ["diverged", "done", "done", "failed", "done"]
    accuracies, worst_known = (0.0, 0.7, 0.4, 0.0, 0.1), (None, None, None, 0.7, 0.4)
    for number, (state, accuracy, worst) in enumerate(zip(states, accuracies, worst_known, strict=True)):
        params = arm.propose(number)
        if number > 1:
            diverged = journal_trials(path)[0]
            assert diverged.state == (TrialState.COMPLETE if worst else TrialState.FAIL)
            shortfall = {VAL_ACCURACY: 0.9 - math.nextafter(worst, -1.0)} if worst and search.where else {}
            assert diverged.constraints == shortfall
            assert diverged.values == ([math.nextafter(worst, -1.0)] if worst else None)
        running = journal_trials(path)[-1]
        assert (running.state, running.params) == (TrialState.RUNNING, params)
        trials[number] = trial_record(number, params, state, dict.fromkeys(metrics, accuracy))
    arm.finish()
    assert journal_trials(path)[0].values == [math.nextafter(0.1, -1.0)]
    assert [trial.user_attrs["state"] for trial in journal_trials(path)] == states


def test_reports_of_diverged_trials_do_not_move_the_median() -> None:
    """Four trials shine before they diverge. If they counted, the pruner would stop every later trial."""
    trials: dict[int, Record] = {}
    arm = open_search(MEDIAN.model_copy(update={"parallel": 1}), trials)
    for number in range(9):
        params, diverges = arm.propose(number), number % 2 == 1
        for epoch in (1, 2):
            arm.should_prune(number, epoch, {VAL_ADV_ACCURACY: 0.95 if diverges else 0.5})
        trials[number] = trial_record(number, params, "diverged" if diverges else "done", {VAL_ADV_ACCURACY: 0.5})
    arm.propose(9)
    assert not any(arm.should_prune(9, epoch, {VAL_ADV_ACCURACY: 0.6}) for epoch in (1, 2))
    assert arm.should_prune(9, 1, {VAL_ADV_ACCURACY: 0.4}) is False, "an epoch that is reported again is ignored"
    trials[9] = trial_record(9, arm.propose(9))
    arm.propose(10)
    assert arm.should_prune(10, 1, {VAL_ADV_ACCURACY: 0.4})


RISEN = [rising(number, {"lambda": 0.002 * 3**number, "phi": 0.0}, "diverged") for number in range(4)]
TRIED: dict[float, ledger.RecordState] = {0.003: "done", 0.03: "done", 0.0417: "diverged", 0.6: "done"}
BRACKETED = [trial_record(number, {"lambda": value}, state) for number, (value, state) in enumerate(TRIED.items())]


@pytest.mark.parametrize(("search", "records"), [(GP, RISEN), (MATCH, BRACKETED)], ids=["gp", "match"])
def test_a_proposal_that_failed_before_is_shifted_a_little(search: Search, records: list[Record]) -> None:
    """Both samplers would repeat one point for ever, and equal trials run once, so all later trials would be lost.

    The Gaussian process expects most at the end of the range. The match has its root next to a diverged trial.
    """
    records, proposed = list(records), []
    for number in range(4, 7):
        params = open_search(search, records).propose(number)
        proposed.append(float(params["lambda"]))
        records.append(trial_record(number, params, "failed"))
    assert len(set(proposed)) == 3
    assert max(proposed) / min(proposed) < 1.2
    assert all(0.001 <= value <= 1.0 for value in proposed)
