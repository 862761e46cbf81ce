"""LossMatchSampler finds λ at which a noisy metric equals its target."""

import doctest
import math
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_interpreg.search.matching import sampler as matching
from tune_interpreg.search.matching.estimate import Match, estimate, from_position, to_position
from tune_interpreg.search.matching.sampler import LossMatchSampler, best_match, propose

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from bench_matching import find_error, match_loss, search_sections, search_tpe
from matching_families import FAMILIES, draw

LOW, HIGH = BOUNDS = (1e-4, 10.0)  # five decades
LAMBDA = FloatDistribution(LOW, HIGH, log=True)
optuna.logging.set_verbosity(optuna.logging.WARNING)


def logistic(u: float) -> float:
    return 2.25 / (1 + math.exp(-11.5 * (u - 0.5)))


def position(value: float) -> float:
    return float(to_position(np.array(value), BOUNDS))


def values(u_N: np.ndarray) -> np.ndarray:
    return from_position(u_N, BOUNDS)


def sampler(seed: int = 0, **changes: object) -> LossMatchSampler:
    return LossMatchSampler("lambda", **{"target": 1.0, "noise": 0.02, "seed": seed} | changes)


def finished(value: float, **attributes: float) -> FrozenTrial:
    return create_trial(params={"lambda": value}, distributions={"lambda": LAMBDA}, value=1.0, user_attrs=attributes)


def study_of(trials: list[FrozenTrial], seed: int = 0, **changes: object) -> optuna.Study:
    study = optuna.create_study(sampler=sampler(seed, **changes))
    study.add_trials(trials)
    return study


def ask(study: optuna.Study) -> float:
    return study.ask({"lambda": LAMBDA}).params["lambda"]


def logistic_trials(count: int = 6, sign: float = 1.0) -> list[FrozenTrial]:
    u_N = np.linspace(0.05, 0.95, count)
    return [
        finished(float(value), residual=sign * (logistic(u) - 1.0)) for u, value in zip(u_N, values(u_N), strict=True)
    ]


def test_the_docstring_example_works() -> None:
    assert doctest.testmod(matching) == doctest.TestResults(failed=0, attempted=8)


@pytest.mark.parametrize("family", ["logistic", "power law", "late knee"])
@pytest.mark.parametrize(("relative", "factor"), [(0.01, 6.0), (0.05, 2.5)])
def test_twelve_trials_match_a_smooth_curve_far_better_than_tpe(family: str, relative: float, factor: float) -> None:
    problems = [draw(FAMILIES[family], relative, repeat) for repeat in range(12)]
    ours = np.median([find_error(problem, match_loss(problem, 12, 4).u) for problem in problems])
    theirs = np.median([find_error(problem, search_tpe(problem, 12, 4).u) for problem in problems])
    assert ours < relative
    assert factor * ours < theirs


@pytest.mark.parametrize("family", ["staircase", "cliff", "15% collapse", "half diverge", "heavy tails"])
@pytest.mark.thorough
def test_twelve_trials_match_a_rough_curve_about_as_well_as_section_search(family: str) -> None:
    problems = [draw(FAMILIES[family], 0.01, repeat) for repeat in range(16)]
    outcomes = [match_loss(problem, 12, 4) for problem in problems]
    ours = np.median([find_error(p, outcome.u) for p, outcome in zip(problems, outcomes, strict=True)])
    theirs = np.median([find_error(problem, search_sections(problem, 12, 4).u) for problem in problems])
    assert ours < 1.3 * theirs
    covered = [o.low - 1e-9 <= p.root <= o.high + 1e-9 for p, o in zip(problems, outcomes, strict=True)]
    assert sum(covered) >= 12


# --------------------------------------------------------------------- proposals
@pytest.mark.parametrize("parallel", [1, 4, 7])
def test_the_first_trials_divide_the_range_into_equal_parts(parallel: int) -> None:
    study = study_of([], parallel=parallel)
    u = [0.0, *sorted(position(ask(study)) for _ in range(parallel)), 1.0]
    assert np.diff(u) == pytest.approx(1 / (parallel + 1), rel=0.05)


def test_more_trials_than_parallel_leave_no_wide_gap() -> None:
    study = study_of([])
    u = np.sort([0, *(position(ask(study)) for _ in range(12)), 1])
    assert np.diff(u).max() < 0.25


def test_parallel_trials_divide_the_bracket_of_a_jump() -> None:
    trials = [
        finished(float(values(np.array(u))), residual=-0.9 if u < 0.5 else 0.9) for u in (0.1, 0.2, 0.4, 0.6, 0.8)
    ]
    study = study_of(trials, parallel=3)
    u = sorted(position(ask(study)) for _ in range(3))
    assert np.diff([0.4, *u, 0.6]) == pytest.approx(0.05, abs=0.015)


def test_one_trial_at_a_time_bisects_a_jump() -> None:
    tried, residuals = [], []
    for number in range(14):
        settings = {"noise": 0.01, "target": 1.0, "parallel": 1, "seed": 0, "number": number}
        tried.append(propose(tried, residuals, [], bounds=BOUNDS, **settings))
        residuals.append(-0.5 if position(tried[-1]) < 0.3141 else 0.5)
    match = estimate(tried, residuals, bounds=BOUNDS, noise=0.01, target=1.0)
    assert position(match.lambda_hat) == pytest.approx(0.3141, abs=2e-3)


def test_parallel_asks_differ_and_stay_in_range() -> None:
    study = study_of(logistic_trials())
    proposed = [ask(study) for _ in range(8)]
    assert len(set(proposed)) == 8
    assert all(LOW <= value <= HIGH for value in proposed)


def test_running_trials_with_a_strength_change_the_proposal_and_other_unfinished_trials_do_not() -> None:
    plain = [*logistic_trials(), create_trial(state=TrialState.FAIL)]
    between = float(values(np.array(0.48)))
    running = create_trial(state=TrialState.RUNNING, params={"lambda": between}, distributions={"lambda": LAMBDA})
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


# --------------------------------------------------------------------- direction
def test_a_falling_metric_is_matched_like_its_mirror_image() -> None:
    rising, falling = study_of(logistic_trials()), study_of(logistic_trials(sign=-1), target=-1.0, direction="falling")
    assert [ask(rising) for _ in range(3)] == [ask(falling) for _ in range(3)]
    a, b = best_match(study_of(logistic_trials())), best_match(falling)
    assert (a.lambda_hat, a.low, a.high) == (b.lambda_hat, b.low, b.high)
    assert a.expected_residual == -b.expected_residual
    assert (a.residual_low, a.residual_high) == (-b.residual_high, -b.residual_low)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_direction_is_found_from_the_trials(sign: float) -> None:
    known = study_of(logistic_trials(sign=sign), direction="rising" if sign > 0 else "falling")
    found = study_of(logistic_trials(sign=sign), direction=None)
    assert ask(found) == ask(known)
    assert best_match(found) == best_match(known)


def test_trials_without_a_clear_direction_are_spread() -> None:
    flat = [finished(float(values(np.array(u))), residual=0.5) for u in (0.2, 0.8)]
    assert 0.35 < position(ask(study_of(flat, direction=None))) < 0.65


# --------------------------------------------------------------------- estimates
def test_the_interval_covers_the_root() -> None:
    covered = 0
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        u = rng.uniform(0, 1, 12)
        residuals = np.array([logistic(v) for v in u]) - 1.125 + 0.1 * rng.standard_normal(12)
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


def test_a_match_is_within_a_tolerance_that_holds_both_ends_of_its_interval() -> None:
    def within(low: float, high: float, tolerance: float, *, feasible: bool = True) -> bool:
        return Match(0.1, 0.05, 0.2, 0.0, low, high, feasible, None).is_within(tolerance)

    assert within(-0.1, 0.2, 0.2)
    assert not within(-0.1, 0.2, 0.19)
    assert not within(-0.3, 0.2, 0.2)
    assert not within(0.0, 0.0, 1.0, feasible=False)


def test_more_trials_bring_a_match_within_its_tolerance() -> None:
    rng = np.random.default_rng(0)
    u = rng.uniform(0, 1, 80)
    r = 2 * u - 1 + 0.05 * rng.standard_normal(80)
    within = [estimate(values(u[:n]), r[:n], bounds=BOUNDS, noise=0.05).is_within(0.05) for n in (3, 80)]
    assert within == [False, True]


def test_a_jump_over_the_target_is_never_within_a_tolerance_smaller_than_the_jump() -> None:
    u = np.append(np.linspace(0, 1, 12), np.linspace(0.49, 0.51, 12))
    match = estimate(values(u), np.where(u < 0.5, -1.0, 1.0), bounds=BOUNDS, noise=0.02)
    assert match.feasible
    assert not match.is_within(0.5)


# ------------------------------------------------------------------ signs, collapse
def test_signs_bracket_the_root_with_residuals_and_alone() -> None:
    trials = [finished(1e-3, residual=-0.8), finished(1e-2, residual=-0.7), finished(1.0, sign=1)]
    match = best_match(study_of(trials))
    assert match.feasible
    assert 1e-2 < match.lambda_hat <= match.high
    assert 5e-3 < ask(study_of([*trials, create_trial(state=TrialState.FAIL)])) <= 5.0
    assert best_match(study_of([*trials[:2], finished(1.0, residual=math.inf)])) == match
    signs = [finished(1e-3, sign=-1), finished(1e-2, sign=-1), finished(0.1, sign=1), finished(1.0, sign=1)]
    match = best_match(study_of(signs))
    assert match.feasible
    assert 5e-3 < match.lambda_hat <= 0.2


@pytest.mark.parametrize("diverged", [math.inf, 1e12, 1e300])
def test_a_loss_far_above_all_others_counts_as_a_sign(diverged: float) -> None:
    u = np.linspace(0.1, 0.9, 7)
    result = estimate(values(u), np.append(u[:-1] - 0.4, diverged), bounds=BOUNDS, noise=0.01)
    assert position(result.lambda_hat) == pytest.approx(0.4, abs=0.01)
    assert result.feasible


def test_diverged_trials_below_a_finite_one_do_not_hide_the_root() -> None:
    """Half of the trainings diverge, whatever λ: the root lies above three of them."""
    u = np.array([0.1, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.9])
    r = np.array([-4.0, math.inf, math.inf, -1.0, math.inf, -0.2, 0.8, 3.0])
    match = estimate(values(u), r, bounds=BOUNDS, noise=0.05)
    assert 0.5 < position(match.lambda_hat) < 0.6
    assert position(match.low) < 0.52 < position(match.high)


@pytest.mark.parametrize("value", [0.5, 1.2, 3.0])
def test_a_collapsed_training_does_not_move_the_root(value: float) -> None:
    """One λ gives the loss of a network that learned nothing. Larger λ contradict it."""
    tried = np.array([0.003, 0.0097, 0.013, 0.0164, 0.025, 0.042, 0.18])
    curve = np.log(tried / 0.018)
    collapsed = np.where(tried == 0.0097, value, curve)
    for residuals in (curve, collapsed):
        match = estimate(tried, residuals, bounds=(0.001, 1.0), noise=0.03)
        assert match.lambda_hat == pytest.approx(0.018, rel=0.06)
        trials = [finished(float(value), residual=float(r)) for value, r in zip(tried, residuals, strict=True)]
        assert 0.01 < ask(study_of(trials[:5])) < 0.03


# ------------------------------------------------------------------------ errors
def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"noise must.*0\.0; direction must.*down.*; parallel must.*0"):
        sampler(noise=0.0, parallel=0, direction="down")
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
