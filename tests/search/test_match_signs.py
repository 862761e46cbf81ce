"""Conclusions from the signs of residuals: which range to search, and what is infeasible."""

import math

import numpy as np
import pytest

from tune_interpreg.search.matching.estimate import estimate, from_position
from tune_interpreg.search.matching.signs import widen

LOW, HIGH = BOUNDS = (1e-4, 1.0)  # half of the logarithmic range is two decades
INF = math.inf


@pytest.mark.parametrize(
    ("lambdas", "residuals", "settings", "expected"),
    [
        ([0.01, 0.1], [-0.5, -0.1], {}, (LOW, 100.0)),
        ([0.01, 0.1], [0.1, INF], {}, (1e-6, HIGH)),
        ([0.01, 0.1], [-0.5, 0.1], {}, None),
        ([0.01, 0.1], [0.0, 0.1], {}, None),
        ([], [], {}, None),
        ([0.01, 0.1], [0.03, 0.5], {"noise": 0.02}, None),
        ([0.01, 0.1], [0.03, 0.5], {"noise": 0.01}, (1e-6, HIGH)),
        ([0.01, 0.1], [0.5, 0.9], {"anchor_residual": 0.3}, None),
        ([0.01, 0.1], [0.5, 0.9], {"anchor_residual": -0.3}, (1e-6, HIGH)),
        ([1e-3, 0.01, 0.1, 0.5], [-0.5, 1.2, -0.3, -0.2], {}, (LOW, 100.0)),
    ],
    ids=[
        *("below", "above", "bracketed", "reached", "nothing", "within noise", "beyond noise"),
        *("anchor above", "anchor below", "collapsed"),
    ],
)
def test_a_range_is_widened_by_half_on_the_side_to_which_all_signs_point(
    lambdas: list[float], residuals: list[float], settings: dict[str, float], expected: tuple[float, float] | None
) -> None:
    widened = widen(BOUNDS, lambdas, residuals, **settings)
    assert widened == (expected and pytest.approx(expected))


def test_a_widened_range_stays_above_zero_and_finite() -> None:
    low, high = widen((1e-300, 1.0), [0.1], [1.0]) or BOUNDS
    assert 0 < low < 1e-300 < high
    low, high = widen((1.0, 1e300), [2.0], [-1.0]) or BOUNDS
    assert 1e300 < high < INF


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize(("side", "end", "words"), [(1, LOW, ["above", "smaller"]), (-1, HIGH, ["below", "larger"])])
def test_a_loss_on_one_side_of_the_target_is_infeasible(count: int, side: int, end: float, words: list[str]) -> None:
    u = np.linspace(0.2, 0.8, count)
    result = estimate(from_position(u, BOUNDS), side + 0.3 * u, bounds=BOUNDS, noise=0.02)
    assert not result.feasible
    assert result.lambda_hat == pytest.approx(end)
    assert result.low <= result.lambda_hat <= result.high
    assert all(word in (result.reason or "") for word in [*words, "[0.0001, 1]"])


def test_no_strength_matches_below_the_anchor_or_with_a_falling_loss() -> None:
    anchored = estimate([0.1, 1.0], [0.5, 0.9], bounds=BOUNDS, noise=0.02, anchor_residual=0.4)
    falling = estimate([1e-3, 0.1, 1.0], [1.0, -0.5, -1.0], bounds=BOUNDS, noise=0.02)
    assert (anchored.feasible, falling.feasible) == (False, False)
    assert "no λ matches" in (anchored.reason or "")
    assert "falls" in (falling.reason or "")


def test_a_residual_within_noise_is_a_match_even_on_one_side() -> None:
    result = estimate([0.1, 1.0], [0.01, 0.9], bounds=BOUNDS, noise=0.02)
    assert result.feasible
    assert abs(result.expected_residual) < 0.2
