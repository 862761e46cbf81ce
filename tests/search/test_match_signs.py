"""What residuals' signs say of a match, when a search may stop, and that an anchor never harms."""

import math

import numpy as np
import pytest

from tune_interpreg.search.matching.estimate import Match, estimate
from tune_interpreg.search.matching.signs import widen

LOW, HIGH = 1e-4, 1.0  # half of the logarithmic range is two decades
BOUNDS = (LOW, HIGH)


def position(value: float) -> float:
    return math.log(value / LOW) / math.log(HIGH / LOW)


def values(u_N: np.ndarray) -> np.ndarray:
    return LOW * (HIGH / LOW) ** u_N


def match(low: float, high: float, *, feasible: bool = True) -> Match:
    return Match(0.1, 0.05, 0.2, 0.0, low, high, feasible, None if feasible else "no λ")


# ---------------------------------------------------------------------- stopping
def test_a_match_is_within_a_tolerance_that_holds_both_ends_of_its_interval() -> None:
    assert match(-0.1, 0.2).is_within(0.2)
    assert not match(-0.1, 0.2).is_within(0.19)
    assert not match(-0.3, 0.2).is_within(0.2)


def test_an_infeasible_match_is_never_within() -> None:
    assert not match(0.0, 0.0, feasible=False).is_within(1.0)


@pytest.mark.parametrize("tolerance", [0.0, -0.1, math.nan])
def test_a_tolerance_is_above_zero(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be > 0"):
        match(0.0, 0.0).is_within(tolerance)


def test_residuals_at_the_ends_are_those_of_the_curve() -> None:
    u = np.linspace(0, 1, 12)
    found = estimate(values(u), 2 * u - 1, bounds=BOUNDS, noise=0.02)
    assert found.residual_low == pytest.approx(2 * position(found.low) - 1, abs=0.02)
    assert found.residual_high == pytest.approx(2 * position(found.high) - 1, abs=0.02)
    assert found.residual_low <= found.expected_residual <= found.residual_high


def test_more_trials_bring_a_match_within_its_tolerance() -> None:
    rng = np.random.default_rng(0)
    u = rng.uniform(0, 1, 40)
    r = 2 * u - 1 + 0.05 * rng.standard_normal(40)
    settled = [estimate(values(u[:n]), r[:n], bounds=BOUNDS, noise=0.05).is_within(0.05) for n in (3, 40)]
    assert settled == [False, True]


# ---------------------------------------------------------------------- widening
def test_a_range_is_widened_by_half_on_the_side_the_signs_point_to() -> None:
    assert widen(BOUNDS, [0.01, 0.1], [-0.5, -0.1]) == pytest.approx((LOW, 100.0))
    assert widen(BOUNDS, [0.01, 0.1], [0.1, math.inf]) == pytest.approx((1e-6, HIGH))


def test_a_range_that_brackets_the_root_or_tells_nothing_stays() -> None:
    assert widen(BOUNDS, [0.01, 0.1], [-0.5, 0.1]) is None
    assert widen(BOUNDS, [0.01, 0.1], [0.0, 0.1]) is None
    assert widen(BOUNDS, [0.01], [math.nan]) is None
    assert widen(BOUNDS, [], []) is None


def test_a_residual_within_the_noise_reaches_the_target() -> None:
    assert widen(BOUNDS, [0.01, 0.1], [0.03, 0.5], noise=0.02) is None
    assert widen(BOUNDS, [0.01, 0.1], [0.03, 0.5], noise=0.01) is not None


def test_a_collapsed_training_brackets_nothing() -> None:
    assert widen(BOUNDS, [1e-3, 0.01, 0.1, 0.5], [-0.5, 1.2, -0.3, -0.2]) == pytest.approx((LOW, 100.0))


def test_nothing_smaller_helps_where_the_anchor_lies_above_the_target() -> None:
    assert widen(BOUNDS, [0.01, 0.1], [0.5, 0.9], anchor_residual=0.3) is None
    assert widen(BOUNDS, [0.01, 0.1], [0.5, 0.9], anchor_residual=-0.3) is not None


def test_a_widened_range_stays_above_zero_and_finite() -> None:
    low, high = widen((1e-300, 1.0), [0.1], [1.0]) or BOUNDS
    assert 0 < low < 1e-300 < high
    low, high = widen((1.0, 1e300), [2.0], [-1.0]) or BOUNDS
    assert 1e300 < high < math.inf


def test_an_inverted_range_is_refused() -> None:
    with pytest.raises(ValueError, match="0 < low < high"):
        widen((1.0, 0.1), [0.5], [1.0])


# -------------------------------------------------------------------- infeasible
def test_an_anchor_above_the_target_rules_every_lambda_out() -> None:
    match = estimate([0.1, 1.0], [0.5, 0.9], bounds=BOUNDS, noise=0.02, anchor_residual=0.4)
    assert match.reason is not None
    assert match.reason.endswith("no λ matches")


def test_a_falling_loss_is_infeasible() -> None:
    match = estimate([1e-3, 0.1, 1.0], [1.0, -0.5, -1.0], bounds=BOUNDS, noise=0.02)
    assert match.reason is not None
    assert "falls" in match.reason


# ------------------------------------------------------------------------ anchor
def test_an_anchor_helps_where_the_smallest_strength_lies_right_of_the_root() -> None:
    """A flat start: the anchor says that the loss hardly falls below the range."""
    u = np.array([0.35, 0.6, 0.9])
    bare = estimate(values(u), 1.5 * u - 0.5, bounds=BOUNDS, noise=0.02)
    held = estimate(values(u), 1.5 * u - 0.5, bounds=BOUNDS, noise=0.02, anchor_residual=-0.5)
    assert held.high / held.low <= bare.high / bare.low * 1.1


@pytest.mark.parametrize("depth", [0.5, 5.0, 50.0])
def test_an_anchor_far_below_the_curve_does_not_move_the_root(depth: float) -> None:
    """λ → 0 lies at -∞ on the axis of log λ: how far the loss falls on the way there is not how steep it is here."""
    u = np.linspace(0.05, 0.95, 8)
    residuals = u - 0.4
    bare = estimate(values(u), residuals, bounds=BOUNDS, noise=0.01)
    held = estimate(values(u), residuals, bounds=BOUNDS, noise=0.01, anchor_residual=-depth)
    assert position(held.lambda_hat) == pytest.approx(position(bare.lambda_hat), abs=0.01)
    assert held.low < values(np.array(0.4)) < held.high


# --------------------------------------------------------------------- saturation
@pytest.mark.parametrize("diverged", [math.inf, 1e12, 1e300])
def test_a_loss_that_dwarfs_the_others_is_a_sign(diverged: float) -> None:
    u = np.linspace(0.1, 0.9, 7)
    residuals = np.append(u[:-1] - 0.4, diverged)
    found = estimate(values(u), residuals, bounds=BOUNDS, noise=0.01)
    assert position(found.lambda_hat) == pytest.approx(0.4, abs=0.01)
    assert found.feasible
