"""The lean parts of Optuna propose what Optuna's own propose, number for number, and look at no trial for it."""

from collections.abc import Sequence

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from tune_interpreg.search.arm_search import _valued
from tune_interpreg.search.tpe import Known, Shown, TPESampler

SPACE: dict[str, BaseDistribution] = {
    "lambda": FloatDistribution(0.001, 1.0, log=True),
    "fixed": CategoricalDistribution((1.0,)),
    "beta": FloatDistribution(-1.0, 1.0),
    "phi": CategoricalDistribution((0.0, 0.5, "all")),
}
STARTUP = 4

#: Few values, so that many trials are equally good.
params = st.fixed_dictionaries(
    {
        "lambda": st.sampled_from([0.001, 0.03, 0.1, 1.0]) | st.floats(0.001, 1.0),
        "fixed": st.just(1.0),
        "beta": st.sampled_from([-1.0, 0.25]) | st.floats(-1.0, 1.0),
        "phi": st.sampled_from([0.0, 0.5, "all"]),
    }
)
ends = st.tuples(st.sampled_from(["done", "done", "pruned", "diverged", "failed", "running"]), st.integers(0, 4))


def trial(drawn: tuple[dict, tuple[str, int]]) -> FrozenTrial:
    given, (end, value) = drawn
    states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "running": TrialState.RUNNING}
    return optuna.create_trial(
        state=states.get(end, TrialState.FAIL),
        values=[value / 4] if end == "done" else None,
        params=given,
        distributions=SPACE,
        user_attrs={"state": end},
        intermediate_values={value + 1: 0.5 * (value % 2)} if end == "pruned" and value else {},
    )


def asked(trials: Sequence[FrozenTrial], sampler: optuna.samplers.BaseSampler) -> dict:
    study = optuna.create_study(direction="maximize", storage=Shown(trials), sampler=sampler)
    return dict(study.ask(SPACE).params)


def numbered(trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    for number, one in enumerate(trials):
        one.number = number
    return trials


@given(st.lists(st.tuples(params, ends), max_size=60), st.integers(0, 99))
@settings(deadline=None, max_examples=80)
def test_tpe_proposes_what_optunas_own_does(drawn: list, seed: int) -> None:
    trials = numbered([trial(one) for one in drawn])
    lean = TPESampler(Known(SPACE, trials), startup=STARTUP, seed=seed)
    own = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    assert asked([], lean) == asked(_valued(trials), own)


@given(st.lists(st.tuples(params, ends), min_size=5, max_size=40), st.randoms())
@settings(deadline=None, max_examples=25)
def test_it_is_the_same_in_whatever_order_trials_end(drawn: list, order) -> None:
    trials = [trial(one) for one in drawn]
    known = Known(SPACE)
    for one in trials:
        known.start(one.params)
    for number in order.sample(range(len(trials)), len(trials)):
        known.settle(number, trials[number])
    first, second = (asked([], TPESampler(one, startup=STARTUP, seed=0)) for one in (known, Known(SPACE, trials)))
    assert first == second


def test_none_but_tpes_own_trials_count_as_ended() -> None:
    given = {"lambda": 0.1, "fixed": 1.0, "beta": 0.0, "phi": 0.5}
    known = Known(SPACE, [trial((given, (end, 1))) for end in ("diverged", "failed", "running")])
    assert known.parted(1) is None  # a diverged trial has no value before one is done
    known.start(given)
    known.settle(3, trial((given, ("done", 2))))
    best, others = known.parted(2)
    assert {name: len(column) for name, column in best.items()} == {"lambda": 1, "beta": 1, "phi": 1}
    assert {name: len(column) for name, column in others.items()} == {"lambda": 2, "beta": 2, "phi": 2}
    assert known.parted(3) is None


def test_a_space_of_single_values_needs_no_sampler() -> None:
    space: dict[str, BaseDistribution] = {"fixed": CategoricalDistribution((1.0,))}
    known = Known(space)
    known.start({"fixed": 1.0})
    known.settle(0, optuna.create_trial(value=1.0, params={"fixed": 1.0}, distributions=space))
    study = optuna.create_study(sampler=TPESampler(known, startup=1, seed=0))
    assert study.ask(space).params == {"fixed": 1.0}
    assert known.parted(1) == ({}, {})


@pytest.mark.parametrize("trials", [300, 3000])
def test_a_proposal_looks_at_no_trial(trials: int) -> None:
    given = {"lambda": 0.1, "fixed": 1.0, "beta": 0.0, "phi": 0.5}
    known = Known(SPACE, [trial((given, ("done", number % 5))) for number in range(trials)])

    class Blind(Shown):
        def get_all_trials(self, study_id, deepcopy=True, states=None):
            assert states == (TrialState.WAITING,)  # Optuna's own queue
            return []

    study = optuna.create_study(storage=Blind([]), sampler=TPESampler(known, startup=STARTUP, seed=0))
    assert SPACE["beta"]._contains(study.ask(SPACE).params["beta"])
