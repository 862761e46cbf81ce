"""Estimate the λ at which a noisy loss equals a target, from all observations.

The loss is taken to rise with λ, as min over θ of CE + λ·penalty does for a penalty ≥ 0. For a falling loss, negate
loss, target and anchor. Shapes: N observations, M drawn roots. A position u is log λ, scaled so that the searched range
is [0, 1].
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from tune_interpreg.search.matching.posterior import Array, RootPosterior
from tune_interpreg.search.matching.signs import drop_collapsed, explain_infeasible, nearer_end

#: Roots drawn from the posterior.
DRAWS = 500


@dataclass(frozen=True)
class Match:
    """The λ at which the loss equals the target.

    Attributes:
        lambda_hat: exponential of the posterior mean of log λ; the nearer end of the range if infeasible.
        low, high: bounds of the root's central 90%.
        expected_residual, residual_low, residual_high: posterior mean of loss − target at these three λ.
        feasible: whether the target lies within reach of the tried λ.
        reason: why it does not.
    """

    lambda_hat: float
    low: float
    high: float
    expected_residual: float
    residual_low: float
    residual_high: float
    feasible: bool
    reason: str | None

    def is_within(self, tolerance: float) -> bool:
        """Return whether the match is feasible and the interval's losses lie within ``tolerance`` of the target."""
        return self.feasible and max(abs(self.residual_low), abs(self.residual_high)) <= tolerance


def estimate(
    lambdas: ArrayLike,
    residuals: ArrayLike,
    *,
    bounds: tuple[float, float],
    noise: float,
    target: float | None = None,
    anchor_residual: float | None = None,
) -> Match:
    """Estimate the root of loss(λ) − target from all observations.

    Args:
        lambdas: tried values, > 0, shape (N,), N ≥ 1.
        residuals: loss − target at each λ, shape (N,). ±inf counts as a sign only, and so does a residual far larger
            than all others.
        bounds: the searched range, 0 < low < high.
        noise: smallest standard deviation of the residuals, > 0, in units of the loss.
        target: the loss to reach, if known. It sets the scale on which losses grow.
        anchor_residual: loss − target as λ → 0, if known.

    Raises:
        ValueError: an argument is out of bounds.
    """
    lambda_N, r_N = np.asarray(lambdas, float), np.asarray(residuals, float)
    rules = {
        f"there must be one residual per λ and at least one, but got {r_N.shape} for {lambda_N.shape}": (
            lambda_N.ndim == 1 and lambda_N.shape == r_N.shape and lambda_N.size > 0
        ),
        f"λ must be finite and > 0, but got {lambda_N}": bool((np.isfinite(lambda_N) & (lambda_N > 0)).all()),
        f"residuals must not be NaN, but are {r_N}": not np.isnan(r_N).any(),
        f"bounds must be 0 < low < high, but are {bounds}": 0 < bounds[0] < bounds[1] < math.inf,
        f"noise must be finite and > 0, but is {noise}": 0 < noise < math.inf,
    }
    raise_broken(rules)
    lambda_N, r_N = drop_collapsed(lambda_N, r_N, noise)
    with threadpool_limits(1, "blas"):  # small matrices: threads only wait for each other while workers are busy
        u_N = to_position(lambda_N, bounds)
        posterior = RootPosterior(u_N, r_N, noise=noise, target=target, anchor=anchor_residual)
        u_M = posterior.roots(DRAWS, np.random.default_rng(0))
    reason = explain_infeasible(lambda_N, r_N, bounds, noise, anchor_residual)
    u = float(u_M.mean()) if reason is None else nearer_end(r_N, u_M)
    u_3 = [u, min(u, float(np.quantile(u_M, 0.05))), max(u, float(np.quantile(u_M, 0.95)))]
    lambda_hat, low, high = from_position(np.array(u_3), bounds).tolist()
    expected, at_low, at_high = [posterior.mean(position) for position in u_3]
    return Match(lambda_hat, low, high, expected, at_low, at_high, reason is None, reason)


def to_position(lambdas: Array, bounds: tuple[float, float]) -> Array:
    """Return u = log(λ / low) / log(high / low)."""
    return np.asarray(np.log(lambdas / bounds[0]) / math.log(bounds[1] / bounds[0]))


def from_position(u: Array, bounds: tuple[float, float]) -> Array:
    """Return λ = low · (high / low)^u."""
    return np.asarray(bounds[0] * (bounds[1] / bounds[0]) ** u)


def raise_broken(rules: dict[str, bool]) -> None:
    """Raise ValueError with every rule that does not hold."""
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError("; ".join(broken))
