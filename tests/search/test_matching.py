"""LossMatchSampler finds λ at which a noisy rising loss equals its target."""

import doctest
import math
import time
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from tune_interpreg.search.matching import sampler as matching
from tune_interpreg.search.matching.estimate import estimate, from_position, to_position
from tune_interpreg.search.matching.sampler import LossMatchSampler, best_match

LOW, HIGH = 1e-4, 10.0  # five decades
LAMBDA = FloatDistribution(LOW, HIGH, log=True)
Curve = Callable[[float], float]
optuna.logging.set_verbosity(optuna.logging.WARNING)


def logistic(centre: float) -> Curve:
    return lambda u: 2.25 / (1 + math.exp(-11.5 * (u - centre)))


def power(centre: float) -> Curve:
    return lambda u: 0.1 * 10 ** (2 * (u + centre))


def flat_then_steep(centre: float) -> Curve:
    return lambda u: 0.3 + 0.05 * u + 0.3 * math.log1p(math.exp(40 * (u - centre)))


def position(value: float) -> float:
    return float(to_position(np.array(value), (LOW, HIGH)))


def values(u_N: np.ndarray) -> np.ndarray:
    return from_position(u_N, (LOW, HIGH))


def sampler(seed: int = 0, **changes: object) -> LossMatchSampler:
    return LossMatchSampler("lambda", **{"target": 1.0, "noise": 0.02, "anchor": 0.0, "seed": seed} | changes)


def finished(value: float, **attributes: float) -> optuna.trial.FrozenTrial:
    return create_trial(params={"lambda": value}, distributions={"lambda": LAMBDA}, value=1.0, user_attrs=attributes)


def study_of(trials: list[optuna.trial.FrozenTrial], seed: int = 0) -> optuna.Study:
    study = optuna.create_study(sampler=sampler(seed))
    study.add_trials(trials)
    return study


def ask(study: optuna.Study) -> float:
    return study.ask({"lambda": LAMBDA}).params["lambda"]


def some_trials(count: int = 6) -> list[optuna.trial.FrozenTrial]:
    curve = logistic(0.5)
    lambdas = values(np.linspace(0.05, 0.95, count)).tolist()
    return [finished(value, residual=curve(position(value)) - 1.0) for value in lambdas]


def search(study: optuna.Study, curve: Curve, target: float, noise: float, seed: int, trials: int = 12) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(trials // 4):
        batch = [study.ask({"lambda": LAMBDA}) for _ in range(4)]
        for trial in batch:
            residual = curve(position(trial.params["lambda"])) - target + noise * rng.standard_normal()
            trial.set_user_attr("residual", residual)
            study.tell(trial, abs(residual))


def test_the_docstring_example_works() -> None:
    assert doctest.testmod(matching) == doctest.TestResults(failed=0, attempted=8)


@pytest.mark.parametrize("family", [logistic, power, flat_then_steep])
@pytest.mark.parametrize(("relative", "factor"), [(0.01, 6.0), (0.05, 2.5)])
def test_twelve_trials_match_far_better_than_tpe(
    family: Callable[[float], Curve], relative: float, factor: float
) -> None:
    ours, theirs = [], []
    for repeat in range(12):
        rng = np.random.default_rng((1, repeat))
        curve = family(rng.uniform(0.35, 0.65))
        target = curve(rng.uniform(0.3, 0.7))
        noise = relative * (target if family is power else 2.25)
        study = optuna.create_study(sampler=sampler(repeat, target=target, noise=noise, anchor=None))
        search(study, curve, target, noise, repeat)
        ours.append(abs(curve(position(best_match(study).lambda_hat)) - target) / noise)
        tpe = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=repeat))
        search(tpe, curve, target, noise, repeat)
        theirs.append(abs(curve(position(tpe.best_params["lambda"])) - target) / noise)
    assert np.median(ours) < 1.0
    assert factor * np.median(ours) < np.median(theirs)


def test_the_interval_covers_the_root() -> None:
    covered = 0
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        u = rng.uniform(0, 1, 12)
        curve = logistic(0.5)
        residuals = np.array([curve(v) for v in u]) - 1.125 + 0.1 * rng.standard_normal(12)
        match = estimate(values(u), residuals, bounds=(LOW, HIGH), noise=0.1)
        covered += match.low <= math.sqrt(LOW * HIGH) <= match.high
    assert covered >= 16


def test_startup_trials_fall_into_different_strata() -> None:
    study = optuna.create_study(sampler=sampler(startup=5))
    strata = [int(5 * position(ask(study))) for _ in range(5)]
    assert sorted(strata) == [0, 1, 2, 3, 4]


def test_more_parallel_trials_than_strata_leave_no_wide_gap() -> None:
    study = optuna.create_study(sampler=sampler())
    u = np.sort([0, *(position(ask(study)) for _ in range(12)), 1])
    assert np.diff(u).max() < 0.25


def test_parallel_asks_differ_and_stay_in_range() -> None:
    study = study_of(some_trials())
    proposed = [ask(study) for _ in range(8)]
    assert len(set(proposed)) == 8
    assert all(LOW <= value <= HIGH for value in proposed)


def test_running_trials_with_a_strength_change_the_proposal_and_other_unfinished_trials_do_not() -> None:
    plain = [*some_trials(), create_trial(state=TrialState.FAIL)]
    running = create_trial(state=TrialState.RUNNING, params={"lambda": 0.03}, distributions={"lambda": LAMBDA})
    early = create_trial(state=TrialState.RUNNING)
    assert ask(study_of([*some_trials(), running])) != ask(study_of(plain))
    assert ask(study_of([*some_trials(), early])) == ask(study_of(plain))


def test_a_rebuilt_study_proposes_the_same() -> None:
    study = optuna.create_study(sampler=sampler(3))
    search(study, logistic(0.4), 1.0, 0.02, seed=0, trials=8)
    rebuilt = study_of(study.trials, seed=3)
    assert [ask(rebuilt) for _ in range(3)] == [ask(study) for _ in range(3)]
    assert best_match(rebuilt) == best_match(study)
    assert ask(study_of(study.trials, seed=4)) != ask(study_of(study.trials, seed=3))


def test_the_order_in_which_trials_finished_does_not_matter() -> None:
    assert ask(study_of(some_trials())) == ask(study_of(some_trials()[::-1]))


def test_the_global_generator_is_neither_read_nor_advanced() -> None:
    first = ask(study_of(some_trials()))
    np.random.seed(123)
    before = np.random.get_state()[1].copy()
    assert ask(study_of(some_trials())) == first
    assert (np.random.get_state()[1] == before).all()


def test_sign_only_trials_bracket_the_root() -> None:
    trials = [finished(1e-3, residual=-0.8), finished(1e-2, residual=-0.7), finished(1.0, sign=1)]
    match = best_match(study_of(trials))
    assert match.feasible
    assert 1e-2 < match.low < match.lambda_hat < match.high <= 1.0
    assert 5e-3 < ask(study_of([*trials, create_trial(state=TrialState.FAIL)])) <= 1.0


def test_signs_alone_are_enough_to_propose_and_to_estimate() -> None:
    trials = [finished(1e-3, sign=-1), finished(1e-2, sign=-1), finished(0.1, sign=1), finished(1.0, sign=1)]
    match = best_match(study_of(trials))
    assert match.feasible
    assert 1e-2 <= match.low <= match.lambda_hat <= match.high <= 0.1
    one_side = best_match(study_of(trials[2:]))
    assert (one_side.feasible, one_side.lambda_hat) == (False, pytest.approx(LOW))


def test_a_collapsed_training_does_not_move_the_root() -> None:
    """One λ gives the loss of a network that learned nothing. Two larger λ contradict it."""
    tried = np.array([0.003, 0.0097, 0.013, 0.0164, 0.025, 0.042, 0.18])
    curve = np.log(tried / 0.018)
    collapsed = np.where(tried == 0.0097, 1.2, curve)
    for residuals in (curve, collapsed):
        match = estimate(tried, residuals, bounds=(0.001, 1.0), noise=0.03)
        assert match.lambda_hat == pytest.approx(0.018, rel=0.05)
    refuting = finished(0.013, residual=-0.3), finished(0.0164, residual=-0.1)
    others = finished(0.003, residual=-1.8), finished(0.025, residual=0.3)
    proposals = {
        study_of([*others, *refuting, *more]).ask({"lambda": LAMBDA}).params["lambda"]
        for more in ([], [finished(0.0097, residual=1.2)])
    }
    assert all(0.01 < value < 0.03 for value in proposals)


def test_an_infinite_residual_is_a_sign() -> None:
    signed = [finished(1e-2, residual=-0.5), finished(1.0, sign=1)]
    infinite = [finished(1e-2, residual=-0.5), finished(1.0, residual=math.inf)]
    assert best_match(study_of(signed)) == best_match(study_of(infinite))


def test_the_estimate_is_not_the_luckiest_trial() -> None:
    u = np.linspace(0.1, 0.9, 9)
    residuals = u - 0.5
    residuals[-1] = 0.0  # a lucky draw far from the root
    match = estimate(values(u), residuals, bounds=(LOW, HIGH), noise=0.1)
    assert abs(position(match.lambda_hat) - 0.5) < 0.15


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_observations_give_an_interval_around_the_estimate(count: int) -> None:
    match = estimate([0.03, 1e-3, 2.0][:count], [0.01, -0.4, 0.7][:count], bounds=(LOW, HIGH), noise=0.02)
    assert match.feasible
    assert LOW <= match.low <= match.lambda_hat <= match.high <= HIGH
    assert math.isfinite(match.expected_residual)


def test_residuals_over_many_orders_of_magnitude_do_not_hide_the_root() -> None:
    u = np.linspace(0, 1, 10)
    match = estimate(values(u), 10 ** (5 * u) - 100, bounds=(LOW, HIGH), noise=1.0)
    assert position(match.lambda_hat) == pytest.approx(0.4, abs=0.02)


def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"noise must.*0\.0; startup must.*0"):
        sampler(noise=0.0, startup=0)
    with pytest.raises(ValueError, match=r"λ must.*; residuals must.*; bounds must"):
        estimate([0.0], [math.nan], bounds=(1.0, 1.0), noise=0.1)
    with pytest.raises(ValueError, match="at least one"):
        estimate([], [], bounds=(LOW, HIGH), noise=0.1)


def test_the_sampler_takes_one_log_scaled_float_only() -> None:
    with pytest.raises(ValueError, match="log=True"):
        study_of([]).ask({"lambda": FloatDistribution(0.1, 1.0)})
    with pytest.raises(ValueError, match="fix 'phi'"):
        study_of([]).ask({"phi": LAMBDA})


def test_best_match_needs_its_sampler_and_an_observation() -> None:
    with pytest.raises(TypeError, match="RandomSampler"):
        best_match(optuna.create_study(sampler=optuna.samplers.RandomSampler(0)))
    with pytest.raises(ValueError, match="no finished trial"):
        best_match(study_of([create_trial(state=TrialState.FAIL)]))


def test_a_proposal_among_a_hundred_trials_takes_under_a_fifth_of_a_second() -> None:
    study = study_of(some_trials(100))
    seconds = []
    for _ in range(4):
        start = time.process_time()
        ask(study)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2
