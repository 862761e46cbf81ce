"""Conclusions from the signs of residuals: the curve's direction, whether a root is bracketed, where to look.

Shapes: N observations. Residuals are value − target, or its negative for a falling curve: they rise with λ.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tune_interpreg.search.matching.steps import Array
from tune_interpreg.study.space import widest_bounds

Direction = Literal["rising", "falling"]

COLLAPSED = 4.0  # noise floors; a larger residual that two others contradict is not a point of the curve
WITHIN_NOISE = 2.0  # noise floors; a residual up to this size reaches the target
CLEAR = 4.0  # noise floors; two values that differ by more show a direction


def find_direction(lambdas: ArrayLike, values: ArrayLike, noise: float) -> Direction | None:
    """Return whether values rise or fall with λ, or None if no two of them differ clearly.

    Every two values that differ by more than ``CLEAR`` noise floors vote. A tie counts as rising. Diverged trainings,
    which have no finite value, do not vote.
    """
    lambda_N, value_N = np.asarray(lambdas, float), np.asarray(values, float)
    finite_N = np.isfinite(value_N)
    lambda_N, value_N = lambda_N[finite_N], value_N[finite_N]
    step_NN = value_N[None, :] - value_N[:, None]
    votes_NN = np.sign(step_NN) * (np.abs(step_NN) > CLEAR * noise) * (lambda_N[None, :] > lambda_N[:, None])
    if not votes_NN.any():
        return None
    return "falling" if votes_NN.sum() < 0 else "rising"


def orient(r_N: Array, direction: Direction) -> Array:
    """Return residuals that rise with λ. +inf, a diverged training, keeps its sign."""
    return r_N if direction == "rising" else np.where(np.isfinite(r_N), -r_N, r_N)


def widen(
    bounds: tuple[float, float],
    lambdas: ArrayLike,
    residuals: ArrayLike,
    *,
    noise: float = 0.0,
    anchor_residual: float | None = None,
    direction: Direction | None = "rising",
) -> tuple[float, float] | None:
    """Return the range, longer by half its logarithmic length on the side to which the residuals point.

    A search widens its range once, after its first trials.

    Args:
        lambdas, residuals, direction: as in ``estimate``.
        noise: a residual up to ``WITHIN_NOISE`` times the noise reaches the target.
        anchor_residual: residual as λ → 0, if known. If it lies beyond the target, no smaller λ helps.

    Returns:
        None if there is no residual, if the signs differ, or if one residual reaches the target.
    """
    lambda_N, r_N = np.asarray(lambdas, float), np.asarray(residuals, float)
    direction = direction or find_direction(lambda_N, r_N, noise) or "rising"
    anchor = (anchor_residual or 0.0) * (1 if direction == "rising" else -1)
    _, r_N = drop_collapsed(lambda_N, orient(r_N, direction), noise)
    lowest, highest = widest_bounds(bounds)
    if r_N.size and (r_N < -WITHIN_NOISE * noise).all():
        return bounds[0], highest
    if r_N.size and (r_N > WITHIN_NOISE * noise).all() and anchor <= WITHIN_NOISE * noise:
        return lowest, bounds[1]
    return None


def drop_collapsed(lambda_N: Array, r_N: Array, noise: float) -> tuple[Array, Array]:
    """Return the observations without collapsed trainings, which lie far above the curve.

    The curve rises with λ. So two negative residuals at larger λ contradict a residual above ``COLLAPSED`` noise
    floors. A third negative residual at a smaller λ must show that the curve does not fall; a diverged training, with a
    residual of +inf, shows no curve.
    """
    larger_NN, below_N = lambda_N[None, :] > lambda_N[:, None], r_N < 0
    contradicted_N = (larger_NN & below_N).sum(1) >= 2
    rising_N = (larger_NN.T & below_N).any(1) | np.isposinf(r_N)
    valid_N = ~((r_N > COLLAPSED * noise) & contradicted_N & rising_N)
    return lambda_N[valid_N], r_N[valid_N]


def nearer_end(r_N: Array, median: float) -> float:
    """Return the end of the range, 0 or 1, that lies nearer to the target."""
    if (r_N > 0).all() or (r_N < 0).all():
        return float(r_N[0] < 0)
    return float(median > 0.5)


def explain_infeasible(
    lambda_N: Array,
    r_N: Array,
    bounds: tuple[float, float],
    noise: float,
    anchor_residual: float | None,
    direction: Direction = "rising",
) -> str | None:
    """Return why the target is not reached, or None if a residual is near 0 or the signs rise from − to +."""
    if (np.abs(r_N) <= WITHIN_NOISE * noise).any():
        return None
    above, below = ("above", "below") if direction == "rising" else ("below", "above")
    nearest = r_N[np.abs(r_N).argmin()] * (1 if direction == "rising" or not np.isfinite(r_N).any() else -1)
    near = f"nearest residual {nearest:+.4g}"
    tried = f"at every λ tried in [{bounds[0]:g}, {bounds[1]:g}]"
    if (r_N < 0).all():
        return f"the metric lies {below} the target {tried} ({near}): only a larger λ could match"
    if (r_N > 0).all() and (anchor_residual or 0.0) > WITHIN_NOISE * noise:
        return f"the metric lies {above} the target {tried} and as λ → 0 ({near}): no λ matches"
    if (r_N > 0).all():
        return f"the metric lies {above} the target {tried} ({near}): only a smaller λ could match"
    if lambda_N[r_N < 0].min() > lambda_N[r_N > 0].max():
        falls, must = ("falls", "rise") if direction == "rising" else ("rises", "fall")
        return f"the metric {falls} through the target in [{bounds[0]:g}, {bounds[1]:g}], but must {must} with λ"
    return None
