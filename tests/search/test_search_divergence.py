"""What a search learns of trials without a number: to keep away from where they diverged, and nothing of a dead worker.

The accuracy rises with λ in (0.001, 1), and every training above λ = 0.1 diverges: without a lesson, a sampler that
follows the rise has lost all of its trials.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from test_search import BEST, MATCH, MEDIAN, in_journal, opened, record, reports

from tune_interpreg.search.journal import open_journal
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.space import Pick, Search

EDGE = 0.1
MEMORY = Path("memory")
BOTH = BEST.model_copy(
    update={
        "maximize": ("val/accuracy", "val/adv_accuracy"),
        "pick": Pick(best="val/adv_accuracy", within={"val/accuracy": 0.1}),
    }
)
SEARCHES = [one.model_copy(update={"sampler": sampler}) for sampler in ("tpe", "gp") for one in (BEST, BOTH)]
KINDS = ["tpe", "tpe pareto", "gp", "gp pareto"]


def rising(number: int, params: Mapping[str, Scalar], lost: ledger.RecordState) -> Record:
    """A trial whose accuracies rise with log λ up to the edge, beyond which it is ``lost``."""
    strength = float(params["lambda"])
    if strength > EDGE:
        return record(number, params, lost)
    height = 0.9 + 0.3 * math.log10(strength) - 0.05 * float(params["phi"])
    return record(number, params, **{"val/adv_accuracy": height, "val/accuracy": 0.99 - 0.1 * float(params["phi"])})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "optuna.journal"


def begun(lost: ledger.RecordState) -> list[Record]:
    """Eight trials, every other one beyond the edge."""
    strengths = (0.003, 0.15, 0.01, 0.3, 0.03, 0.5, 0.09, 0.8)
    return [
        rising(number, {"lambda": one, "phi": float(number // 2 % 2)}, lost) for number, one in enumerate(strengths)
    ]


def next_strengths(search: Search, records: list[Record], lost: ledger.RecordState) -> list[float]:
    """Of four more trials, one after another."""
    arm, strengths = opened(MEMORY, search, records), []
    for number in range(len(records), len(records) + 4):
        params = arm.propose(number)
        strengths.append(float(params["lambda"]))
        arm.tell(rising(number, params, lost))
    return strengths


@pytest.mark.parametrize("search", SEARCHES, ids=KINDS)
def test_proposals_shift_away_from_where_trials_diverged(search: Search) -> None:
    """Most stay below the edge; where the same trials are said to have failed, nearly all are lost."""
    aware, unaware = (next_strengths(search, begun(state), state) for state in ("diverged", "failed"))
    assert sum(one > EDGE for one in aware) <= 2
    assert sum(one > EDGE for one in unaware) >= 3


@pytest.mark.parametrize("search", SEARCHES, ids=KINDS)
def test_a_worker_that_died_has_no_influence(search: Search) -> None:
    """The next proposal is the one that there would be without the failed trials, wherever they lay."""
    done = [rising(number, {"lambda": 0.002 * 1.5**number, "phi": 0.0}, "diverged") for number in range(6)]
    failed = [record(number, {"lambda": 0.5, "phi": 1.0}, "failed") for number in (6, 7)]
    expected = opened(MEMORY, search, done).propose(8)
    assert opened(MEMORY, search, [*done, *failed]).propose(8) == expected
    diverged = [one | {"state": "diverged"} for one in failed]
    assert opened(MEMORY, search, [*done, *diverged]).propose(8) != expected


@pytest.mark.parametrize("search", SEARCHES, ids=KINDS)
def test_proposals_beside_diverged_trials_rest_on_the_ledger_alone(path: Path, search: Search) -> None:
    """A driver that saw them diverge and one that reads it, with or without a journal, propose the same."""
    arm, records = opened(path, search, []), begun("diverged")
    for one in records:
        arm.propose(one["number"], one["recipe"]["params"])
        arm.tell(one)
    proposed = [arm.propose(number) for number in (8, 9)]
    assert proposed[0] != proposed[1]
    for where in (path, MEMORY):
        assert opened(where, search, records).propose(8) == proposed[0]


@pytest.mark.parametrize("search", [BEST, BOTH], ids=KINDS[:2])
def test_until_a_trial_is_done_proposals_are_drawn_from_the_whole_range(search: Search) -> None:
    """Nothing tells the least bad of diverged trials from the others."""
    arm = opened(MEMORY, search, [])
    strengths = []
    for number in range(16):
        params = arm.propose(number)
        strengths.append(float(params["lambda"]))
        arm.tell(record(number, params, "diverged"))
    assert min(strengths[8:]) < 0.02
    assert max(strengths[8:]) > 0.2


@pytest.mark.parametrize("search", [BEST, MATCH, BOTH])
def test_the_journal_tells_diverged_from_failed_and_gives_neither_a_value(path: Path, search: Search) -> None:
    """optuna-dashboard shows both as failed, and their attribute ``state``."""
    arm = opened(path, search, [])
    states: list[ledger.RecordState] = ["done", "diverged", "failed"]
    for number, state in enumerate(states):
        arm.tell(record(number, arm.propose(number), state, **{"val/accuracy": 0.9}))
    trials = in_journal(path)
    assert [trial.user_attrs["state"] for trial in trials] == states
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert [trial.values for trial in trials[1:]] == [None, None]
    before = path.read_bytes()
    opened(path, search, [record(n, trials[n].params, s, **{"val/accuracy": 0.9}) for n, s in enumerate(states)])
    assert path.read_bytes() == before


def test_what_diverged_trials_reported_moves_no_median() -> None:
    """Five that shone before they diverged would stop every later one, were they counted."""
    arm = opened(MEMORY, MEDIAN, [])
    for number in range(9):
        params, shines = arm.propose(number), number % 2 == 1
        reports(arm, number, [0.95, 0.95] if shines else [0.5, 0.5])
        done = record(number, params, **{"val/adv_accuracy": 0.5})
        arm.tell(record(number, params, "diverged") if shines else done)
    arm.propose(9)
    assert reports(arm, 9, [0.6, 0.6]) == [False, False]


def test_trials_that_a_dead_driver_left_open_neither_survive_nor_sway_a_proposal(path: Path) -> None:
    """Running ones far out, and one that waits to be asked for, are gone with the next start."""
    records = begun("diverged")
    arm = opened(path, BEST, records)
    for number in (8, 9, 10):
        arm.propose(number, {"lambda": 0.002, "phi": 1.0})
    optuna.load_study(study_name="arm", storage=open_journal(path)).enqueue_trial({"lambda": 0.8, "phi": 1.0})
    assert [trial.state for trial in in_journal(path)][8:] == [TrialState.RUNNING] * 3 + [TrialState.WAITING]
    again = opened(path, BEST, records)
    assert [trial.user_attrs["key"] for trial in in_journal(path)] == [one["key"] for one in records]
    assert again.propose(8) == opened(MEMORY, BEST, records).propose(8)


def test_what_an_earlier_run_began_is_repeated_whatever_diverged_meanwhile() -> None:
    params = {"lambda": 0.7123456789012345, "phi": 1.0}
    assert opened(MEMORY, BEST, begun("diverged")).propose(8, params) == params


GP = BEST.model_copy(update={"sampler": "gp"})
RISEN = [
    rising(number, {"lambda": one, "phi": 0.0}, "diverged") for number, one in enumerate((0.002, 0.008, 0.03, 0.1))
]
TRIED: list[tuple[float, ledger.RecordState]] = [(0.003, "done"), (0.03, "done"), (0.0417, "diverged"), (0.6, "done")]
BRACKETED = [record(number, {"lambda": one}, state) for number, (one, state) in enumerate(TRIED)]


@pytest.mark.parametrize(("search", "records"), [(GP, RISEN), (MATCH, BRACKETED)], ids=["gp", "match"])
def test_a_proposal_that_failed_already_is_moved_a_hair(search: Search, records: list[Record]) -> None:
    """Both would name one point for ever, and equal proposals run once: all that follow would be lost with it.

    The process expects most at the end of the range; the match knows that its root is next to where a trial diverged.
    """
    held, proposed = list(records), []
    for number in range(4, 7):
        params = opened(MEMORY, search, held).propose(number)
        proposed.append(float(params["lambda"]))
        held.append(record(number, params, "failed"))
    assert len(set(proposed)) == 3
    assert max(proposed) / min(proposed) < 1.2
    assert all(0.001 <= one <= 1.0 for one in proposed)
