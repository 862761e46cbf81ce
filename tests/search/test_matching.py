"""LossMatchSampler finds λ at which a noisy rising loss equals its target."""

import doctest
import math
from functools import partial

import numpy as np
import optuna
import pytest
from benchmarks.bench_matching import FAMILIES, find_error, match_loss, run_optuna, synthetic
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_interpreg.search.matching import sampler as matching
from tune_interpreg.search.matching.estimate import Match, estimate, from_position, to_position
from tune_interpreg.search.matching.sampler import LossMatchSampler, best_match

LOW, HIGH = BOUNDS = (1e-4, 10.0)  # five decades
LAMBDA = FloatDistribution(LOW, HIGH, log=True)
LOGISTIC = partial(FAMILIES["logistic"], centre=0.5)
optuna.logging.set_verbosity(optuna.logging.WARNING)


def position(value: float) -> float:
    return float(to_position(np.array(value), BOUNDS))


def values(u_N: np.ndarray) -> np.ndarray:
    return from_position(u_N, BOUNDS)


def sampler(seed: int = 0, **changes: object) -> LossMatchSampler:
    return LossMatchSampler("lambda", **{"target": 1.0, "noise": 0.02, "anchor": 0.0, "seed": seed} | changes)


def finished(value: float, **attributes: float) -> FrozenTrial:
    return create_trial(params={"lambda": value}, distributions={"lambda": LAMBDA}, value=1.0, user_attrs=attributes)


def study_of(trials: list[FrozenTrial], seed: int = 0, **changes: object) -> optuna.Study:
    study = optuna.create_study(sampler=sampler(seed, **changes))
    study.add_trials(trials)
    return study


def ask(study: optuna.Study) -> float:
    return study.ask({"lambda": LAMBDA}).params["lambda"]


def logistic_trials(count: int = 6) -> list[FrozenTrial]:
    u_N = np.linspace(0.05, 0.95, count)
    return [finished(float(value), residual=LOGISTIC(u) - 1.0) for u, value in zip(u_N, values(u_N), strict=True)]


def test_the_docstring_example_works() -> None:
    assert doctest.testmod(matching) == doctest.TestResults(failed=0, attempted=8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("relative", "factor"), [(0.01, 6.0), (0.05, 2.5)])
def test_twelve_trials_match_far_better_than_tpe(family: str, relative: float, factor: float) -> None:
    problems = [synthetic(family, relative, repeat) for repeat in range(12)]
    ours = np.median([find_error(problem, match_loss(problem, 12, 4)) for problem in problems])
    theirs = np.median([find_error(problem, run_optuna(TPESampler, problem, 12, 4)) for problem in problems])
    assert ours < relative
    assert factor * ours < theirs


# --------------------------------------------------------------------- proposals
def test_startup_trials_fall_into_different_strata() -> None:
    study = study_of([], startup=5)
    assert sorted(int(5 * position(ask(study))) for _ in range(5)) == [0, 1, 2, 3, 4]


def test_more_parallel_trials_than_strata_leave_no_wide_gap() -> None:
    study = study_of([])
    u = np.sort([0, *(position(ask(study)) for _ in range(12)), 1])
    assert np.diff(u).max() < 0.25


def test_parallel_asks_differ_and_stay_in_range() -> None:
    study = study_of(logistic_trials())
    proposed = [ask(study) for _ in range(8)]
    assert len(set(proposed)) == 8
    assert all(LOW <= value <= HIGH for value in proposed)


def test_running_trials_with_a_strength_change_the_proposal_and_other_unfinished_trials_do_not() -> None:
    plain = [*logistic_trials(), create_trial(state=TrialState.FAIL)]
    running = create_trial(state=TrialState.RUNNING, params={"lambda": 0.03}, distributions={"lambda": LAMBDA})
    early = create_trial(state=TrialState.RUNNING)
    assert ask(study_of([*logistic_trials(), running])) != ask(study_of(plain))
    assert ask(study_of([*logistic_trials(), early])) == ask(study_of(plain))


def test_a_proposal_depends_on_the_seed_and_the_set_of_trials_only() -> None:
    np.random.seed(123)
    before = np.random.get_state()[1].copy()
    first = ask(study_of(logistic_trials()))
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(124)
    assert ask(study_of(logistic_trials()[::-1])) == first
    assert ask(study_of(logistic_trials(), seed=1)) != first


# --------------------------------------------------------------------- estimates
def test_the_interval_covers_the_root() -> None:
    covered = 0
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        u = rng.uniform(0, 1, 12)
        residuals = np.array([LOGISTIC(v) for v in u]) - 1.125 + 0.1 * rng.standard_normal(12)
        match = estimate(values(u), residuals, bounds=BOUNDS, noise=0.1)
        covered += match.low <= math.sqrt(LOW * HIGH) <= match.high
    assert covered >= 16


def test_the_estimate_is_not_the_luckiest_trial() -> None:
    u = np.linspace(0.1, 0.9, 9)
    residuals = u - 0.5
    residuals[-1] = 0.0  # a lucky draw far from the root
    match = estimate(values(u), residuals, bounds=BOUNDS, noise=0.1)
    assert abs(position(match.lambda_hat) - 0.5) < 0.15


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_observations_give_an_interval_around_the_estimate(count: int) -> None:
    match = estimate([0.03, 1e-3, 2.0][:count], [0.01, -0.4, 0.7][:count], bounds=BOUNDS, noise=0.02)
    assert match.feasible
    assert LOW <= match.low <= match.lambda_hat <= match.high <= HIGH
    assert math.isfinite(match.expected_residual)


def test_residuals_over_many_orders_of_magnitude_do_not_hide_the_root() -> None:
    u = np.linspace(0, 1, 10)
    match = estimate(values(u), 10 ** (5 * u) - 100, bounds=BOUNDS, noise=1.0)
    assert position(match.lambda_hat) == pytest.approx(0.4, abs=0.02)


def test_residuals_at_the_ends_of_the_interval_are_those_of_the_curve() -> None:
    u = np.linspace(0, 1, 12)
    result = estimate(values(u), 2 * u - 1, bounds=BOUNDS, noise=0.02)
    assert result.residual_low == pytest.approx(2 * position(result.low) - 1, abs=0.02)
    assert result.residual_high == pytest.approx(2 * position(result.high) - 1, abs=0.02)
    assert result.residual_low <= result.expected_residual <= result.residual_high


def test_a_match_is_within_a_tolerance_that_holds_both_ends_of_its_interval() -> None:
    def within(low: float, high: float, tolerance: float, *, feasible: bool = True) -> bool:
        return Match(0.1, 0.05, 0.2, 0.0, low, high, feasible, None).is_within(tolerance)

    assert within(-0.1, 0.2, 0.2)
    assert not within(-0.1, 0.2, 0.19)
    assert not within(-0.3, 0.2, 0.2)
    assert not within(0.0, 0.0, 1.0, feasible=False)


def test_more_trials_bring_a_match_within_its_tolerance() -> None:
    rng = np.random.default_rng(0)
    u = rng.uniform(0, 1, 40)
    r = 2 * u - 1 + 0.05 * rng.standard_normal(40)
    within = [estimate(values(u[:n]), r[:n], bounds=BOUNDS, noise=0.05).is_within(0.05) for n in (3, 40)]
    assert within == [False, True]


# ------------------------------------------------------------------ signs, collapse
def test_signs_bracket_the_root_with_residuals_and_alone() -> None:
    trials = [finished(1e-3, residual=-0.8), finished(1e-2, residual=-0.7), finished(1.0, sign=1)]
    match = best_match(study_of(trials))
    assert match.feasible
    assert 1e-2 < match.low < match.lambda_hat < match.high <= 1.0
    assert 5e-3 < ask(study_of([*trials, create_trial(state=TrialState.FAIL)])) <= 1.0
    assert best_match(study_of([*trials[:2], finished(1.0, residual=math.inf)])) == match
    signs = [finished(1e-3, sign=-1), finished(1e-2, sign=-1), finished(0.1, sign=1), finished(1.0, sign=1)]
    match = best_match(study_of(signs))
    assert match.feasible
    assert 1e-2 <= match.low <= match.lambda_hat <= match.high <= 0.1


@pytest.mark.parametrize("diverged", [math.inf, 1e12, 1e300])
def test_a_loss_far_above_all_others_counts_as_a_sign(diverged: float) -> None:
    u = np.linspace(0.1, 0.9, 7)
    result = estimate(values(u), np.append(u[:-1] - 0.4, diverged), bounds=BOUNDS, noise=0.01)
    assert position(result.lambda_hat) == pytest.approx(0.4, abs=0.01)
    assert result.feasible


def test_a_collapsed_training_does_not_move_the_root() -> None:
    """One λ gives the loss of a network that learned nothing. Two larger λ contradict it."""
    tried = np.array([0.003, 0.0097, 0.013, 0.0164, 0.025, 0.042, 0.18])
    curve = np.log(tried / 0.018)
    collapsed = np.where(tried == 0.0097, 1.2, curve)
    for residuals in (curve, collapsed):
        match = estimate(tried, residuals, bounds=(0.001, 1.0), noise=0.03)
        assert match.lambda_hat == pytest.approx(0.018, rel=0.05)
        trials = [finished(float(value), residual=float(r)) for value, r in zip(tried, residuals, strict=True)]
        assert 0.01 < ask(study_of(trials[:5])) < 0.03


# ------------------------------------------------------------------------ anchor
def test_an_anchor_keeps_the_interval_short_if_the_smallest_strength_lies_above_the_root() -> None:
    """The curve starts flat, and the anchor shows that the loss hardly falls below the range."""
    u = np.array([0.35, 0.6, 0.9])
    without = estimate(values(u), 1.5 * u - 0.5, bounds=BOUNDS, noise=0.02)
    anchored = estimate(values(u), 1.5 * u - 0.5, bounds=BOUNDS, noise=0.02, anchor_residual=-0.5)
    assert anchored.high / anchored.low <= without.high / without.low * 1.1


@pytest.mark.parametrize("depth", [0.5, 5.0, 50.0])
def test_an_anchor_far_below_the_curve_does_not_move_the_root(depth: float) -> None:
    """λ → 0 lies at −∞ on the axis of log λ, so the fall of the loss towards it says nothing about the slope here."""
    u = np.linspace(0.05, 0.95, 8)
    without = estimate(values(u), u - 0.4, bounds=BOUNDS, noise=0.01)
    anchored = estimate(values(u), u - 0.4, bounds=BOUNDS, noise=0.01, anchor_residual=-depth)
    assert position(anchored.lambda_hat) == pytest.approx(position(without.lambda_hat), abs=0.01)
    assert anchored.low < values(np.array(0.4)) < anchored.high


# ------------------------------------------------------------------------ errors
def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"noise must.*0\.0; startup must.*0"):
        sampler(noise=0.0, startup=0)
    with pytest.raises(ValueError, match=r"λ must.*; residuals must.*; bounds must"):
        estimate([0.0], [math.nan], bounds=(1.0, 1.0), noise=0.1)
    with pytest.raises(ValueError, match="at least one"):
        estimate([], [], bounds=BOUNDS, noise=0.1)


def test_the_sampler_takes_one_log_scaled_float_only() -> None:
    with pytest.raises(ValueError, match="log=True"):
        study_of([]).ask({"lambda": FloatDistribution(0.1, 1.0)})
    with pytest.raises(ValueError, match="fix 'phi'"):
        study_of([]).ask({"phi": LAMBDA})


def test_best_match_needs_its_sampler_and_an_observation() -> None:
    with pytest.raises(TypeError, match="RandomSampler"):
        best_match(optuna.create_study(sampler=RandomSampler(0)))
    with pytest.raises(ValueError, match="no finished trial"):
        best_match(study_of([create_trial(state=TrialState.FAIL)]))
