"""What the signs of the residuals say of a match: which observations count, whether a root is bracketed, and where.

Shapes: N observations, M drawn roots.
"""

import math
import sys

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

COLLAPSED = 4.0  # noise floors; a residual above them that two others refute tells nothing of the curve
WITHIN_NOISE = 2.0  # a residual of at most this many noise floors reaches the target


def widened(
    bounds: tuple[float, float],
    lambdas: ArrayLike,
    residuals: ArrayLike,
    *,
    noise: float = 0.0,
    anchor_residual: float | None = None,
) -> tuple[float, float] | None:
    """The range made longer by half its logarithmic length, on the side that the residuals point to.

    A driver widens a range once, after the stratified trials, and proposes from then on within the wider one.

    Args:
        bounds: the range searched, 0 < low < high.
        lambdas, residuals: as in ``matching.estimate``; a NaN residual is passed over.
        noise: a residual within ``WITHIN_NOISE`` of them counts as reaching the target.
        anchor_residual: loss - target as λ → 0, if known; where it lies above the target, no smaller λ helps.

    Returns None where residuals of both signs, or one that reaches the target, are known, or none is at all.

    Raises:
        ValueError: a range out of bounds.
    """
    low, high = bounds
    if not 0 < low < high < math.inf:
        raise ValueError(f"bounds must be 0 < low < high, but are {bounds}")
    lambda_N, r_N = np.asarray(lambdas, float), np.asarray(residuals, float)
    known_N = ~np.isnan(r_N)
    lambda_N, r_N = credible(lambda_N[known_N], r_N[known_N], noise)
    hopeless = anchor_residual is not None and anchor_residual > WITHIN_NOISE * noise
    lowest, highest = reach(bounds)
    if r_N.size and (r_N < -WITHIN_NOISE * noise).all():
        return low, highest
    if r_N.size and (r_N > WITHIN_NOISE * noise).all() and not hopeless:
        return lowest, high
    return None


def reach(bounds: tuple[float, float]) -> tuple[float, float]:
    """How far ``widened`` goes on either side: half the logarithmic length of ``bounds``, 0 < low < high."""
    low, high = bounds
    factor = math.sqrt(high) / math.sqrt(low)
    return max(low / factor, sys.float_info.min), min(high * factor, sys.float_info.max)


def credible(lambda_N: Array, r_N: Array, noise: float) -> tuple[Array, Array]:
    """The observations without collapsed trainings, whose loss is far above what their λ explains.

    The loss rises with λ, so a residual above ``COLLAPSED`` noise floors is refuted by two negative ones at larger λ,
    where a third, negative at a smaller λ, shows that the curve does not fall.
    """
    larger_NN, below_N = lambda_N[None, :] > lambda_N[:, None], r_N < 0
    refuted_N = (larger_NN & below_N).sum(1) >= 2
    risen_N = (larger_NN.T & below_N).any(1)
    kept_N = ~((r_N > COLLAPSED * noise) & refuted_N & risen_N)
    return lambda_N[kept_N], r_N[kept_N]


def nearer_end(r_N: Array, u_M: Array) -> float:
    if (r_N > 0).all() or (r_N < 0).all():
        return float(r_N[0] < 0)
    return float(u_M.mean() > 0.5)


def obstacle(
    lambda_N: Array, r_N: Array, bounds: tuple[float, float], noise: float, anchor_residual: float | None
) -> str | None:
    """Why the target is not reached: no residual within noise of 0 and no change of sign from - to +."""
    if (np.abs(r_N) <= WITHIN_NOISE * noise).any():
        return None
    nearest = f"nearest residual {r_N[np.abs(r_N).argmin()]:+.4g}"
    tried = f"at every λ tried in [{bounds[0]:g}, {bounds[1]:g}]"
    if (r_N < 0).all():
        return f"the loss lies below the target {tried} ({nearest}): only a larger one could match"
    if (r_N > 0).all() and anchor_residual is not None and anchor_residual > WITHIN_NOISE * noise:
        return f"the loss lies above the target {tried} ({nearest}), and so does it as λ → 0: no λ matches"
    if (r_N > 0).all():
        return f"the loss lies above the target {tried} ({nearest}): only a smaller one could match"
    if lambda_N[r_N < 0].min() > lambda_N[r_N > 0].max():
        return f"the loss falls through the target in [{bounds[0]:g}, {bounds[1]:g}], but must rise with λ"
    return None
