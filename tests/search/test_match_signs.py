"""Signs of residuals: when a match may stop, which range to search, what is infeasible, and how anchors count."""

import math

import numpy as np
import pytest

from tune_interpreg.search.matching.estimate import Match, estimate, from_position, to_position
from tune_interpreg.search.matching.signs import widen

LOW, HIGH = 1e-4, 1.0  # half of the logarithmic range is two decades
BOUNDS = (LOW, HIGH)


def position(value: float) -> float:
    return float(to_position(np.array(value), BOUNDS))


def values(u_N: np.ndarray) -> np.ndarray:
    return from_position(u_N, BOUNDS)


def match(low: float, high: float, *, feasible: bool = True) -> Match:
    return Match(0.1, 0.05, 0.2, 0.0, low, high, feasible, None if feasible else "no λ")


# ---------------------------------------------------------------------- stopping
def test_a_match_is_within_a_tolerance_that_holds_both_ends_of_its_interval() -> None:
    assert match(-0.1, 0.2).is_within(0.2)
    assert not match(-0.1, 0.2).is_within(0.19)
    assert not match(-0.3, 0.2).is_within(0.2)
    assert not match(0.0, 0.0, feasible=False).is_within(1.0)


def test_residuals_at_the_ends_of_the_interval_are_those_of_the_curve() -> None:
    u = np.linspace(0, 1, 12)
    result = estimate(values(u), 2 * u - 1, bounds=BOUNDS, noise=0.02)
    assert result.residual_low == pytest.approx(2 * position(result.low) - 1, abs=0.02)
    assert result.residual_high == pytest.approx(2 * position(result.high) - 1, abs=0.02)
    assert result.residual_low <= result.expected_residual <= result.residual_high


def test_more_trials_bring_a_match_within_its_tolerance() -> None:
    rng = np.random.default_rng(0)
    u = rng.uniform(0, 1, 40)
    r = 2 * u - 1 + 0.05 * rng.standard_normal(40)
    within = [estimate(values(u[:n]), r[:n], bounds=BOUNDS, noise=0.05).is_within(0.05) for n in (3, 40)]
    assert within == [False, True]


# ---------------------------------------------------------------------- widening
def test_a_range_is_widened_by_half_on_the_side_to_which_the_signs_point() -> None:
    assert widen(BOUNDS, [0.01, 0.1], [-0.5, -0.1]) == pytest.approx((LOW, 100.0))
    assert widen(BOUNDS, [0.01, 0.1], [0.1, math.inf]) == pytest.approx((1e-6, HIGH))


@pytest.mark.parametrize(("lambdas", "residuals"), [([0.01, 0.1], [-0.5, 0.1]), ([0.01, 0.1], [0.0, 0.1]), ([], [])])
def test_a_range_stays_if_it_brackets_the_root_or_nothing_is_known(
    lambdas: list[float], residuals: list[float]
) -> None:
    assert widen(BOUNDS, lambdas, residuals) is None


def test_a_residual_within_the_noise_reaches_the_target() -> None:
    assert widen(BOUNDS, [0.01, 0.1], [0.03, 0.5], noise=0.02) is None
    assert widen(BOUNDS, [0.01, 0.1], [0.03, 0.5], noise=0.01) is not None


def test_a_collapsed_training_does_not_bracket_the_root() -> None:
    assert widen(BOUNDS, [1e-3, 0.01, 0.1, 0.5], [-0.5, 1.2, -0.3, -0.2]) == pytest.approx((LOW, 100.0))


def test_a_range_is_not_widened_towards_an_anchor_above_the_target() -> None:
    assert widen(BOUNDS, [0.01, 0.1], [0.5, 0.9], anchor_residual=0.3) is None
    assert widen(BOUNDS, [0.01, 0.1], [0.5, 0.9], anchor_residual=-0.3) is not None


def test_a_widened_range_stays_above_zero_and_finite() -> None:
    low, high = widen((1e-300, 1.0), [0.1], [1.0]) or BOUNDS
    assert 0 < low < 1e-300 < high
    low, high = widen((1.0, 1e300), [2.0], [-1.0]) or BOUNDS
    assert 1e300 < high < math.inf


# -------------------------------------------------------------------- infeasible
@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize(("side", "end", "words"), [(1, LOW, ["above", "smaller"]), (-1, HIGH, ["below", "larger"])])
def test_a_loss_on_one_side_of_the_target_is_infeasible(count: int, side: int, end: float, words: list[str]) -> None:
    u = np.linspace(0.2, 0.8, count)
    result = estimate(values(u), side + 0.3 * u, bounds=BOUNDS, noise=0.02)
    assert not result.feasible
    assert result.lambda_hat == pytest.approx(end)
    assert result.low <= result.lambda_hat <= result.high
    assert all(word in (result.reason or "") for word in [*words, "[0.0001, 1]"])


def test_an_anchor_above_the_target_excludes_every_lambda() -> None:
    result = estimate([0.1, 1.0], [0.5, 0.9], bounds=BOUNDS, noise=0.02, anchor_residual=0.4)
    assert (result.reason or "").endswith("no λ matches")


def test_a_falling_loss_is_infeasible() -> None:
    result = estimate([1e-3, 0.1, 1.0], [1.0, -0.5, -1.0], bounds=BOUNDS, noise=0.02)
    assert "falls" in (result.reason or "")


def test_a_residual_within_noise_is_a_match_even_on_one_side() -> None:
    result = estimate([0.1, 1.0], [0.01, 0.9], bounds=BOUNDS, noise=0.02)
    assert result.feasible
    assert abs(result.expected_residual) < 0.2


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


# --------------------------------------------------------------------- saturation
@pytest.mark.parametrize("diverged", [math.inf, 1e12, 1e300])
def test_a_loss_far_above_all_others_counts_as_a_sign(diverged: float) -> None:
    u = np.linspace(0.1, 0.9, 7)
    residuals = np.append(u[:-1] - 0.4, diverged)
    result = estimate(values(u), residuals, bounds=BOUNDS, noise=0.01)
    assert position(result.lambda_hat) == pytest.approx(0.4, abs=0.01)
    assert result.feasible
