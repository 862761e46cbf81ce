"""Estimate the λ at which a noisy metric equals a target, from all observations.

The metric rises with λ, as a training loss does: min over θ of CE + λ·penalty for a penalty ≥ 0. A falling metric is
negated, and so are its target and its anchor. Shapes: N observations. A position u is log λ, scaled so that the
searched range is [0, 1].
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController

from tune_interpreg.search.matching.posterior import RootPosterior
from tune_interpreg.search.matching.signs import (
    Direction,
    drop_collapsed,
    explain_infeasible,
    find_direction,
    nearer_end,
    orient,
)
from tune_interpreg.search.matching.steps import Array


@dataclass(frozen=True)
class Match:
    """The λ at which the metric equals the target.

    Attributes:
        lambda_hat: exponential of the posterior median of log λ; the nearer end of the range if infeasible.
        low, high: bounds of the root's central 90%.
        expected_residual: posterior median of value − target at ``lambda_hat``.
        residual_low, residual_high: bounds of its central 95%.
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
        """Return whether the match is feasible, and the metric at ``lambda_hat`` lies within ``tolerance`` in 95%."""
        return self.feasible and max(abs(self.residual_low), abs(self.residual_high)) <= tolerance


def estimate(
    lambdas: ArrayLike,
    residuals: ArrayLike,
    *,
    bounds: tuple[float, float],
    noise: float,
    target: float | None = None,
    anchor_residual: float | None = None,
    direction: Direction | None = "rising",
) -> Match:
    """Estimate the root of value(λ) − target from all observations.

    Args:
        lambdas: tried values, > 0, shape (N,), N ≥ 1.
        residuals: value − target at each λ, shape (N,). +inf is a diverged training: its λ may be too large.
        bounds: the searched range, 0 < low < high.
        noise: smallest standard deviation of the residuals, > 0, in units of the metric.
        target: the value to reach, if known. It sets the scale on which values grow.
        anchor_residual: value − target as λ → 0, if known.
        direction: whether the metric rises or falls with λ. None: as the observations show; rising if they do not.

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
    direction = direction or find_direction(lambda_N, r_N, noise) or "rising"
    sign = 1.0 if direction == "rising" else -1.0
    anchor_residual = None if anchor_residual is None else sign * anchor_residual
    r_N = orient(r_N, direction)
    with one_thread():
        posterior = RootPosterior(
            to_position(lambda_N, bounds), r_N, noise=noise, target=None if target is None else sign * target
        )
        median, (low, high) = posterior.median(), posterior.interval()
        kept_N, r_N = drop_collapsed(lambda_N, r_N, noise)
        reason = explain_infeasible(kept_N, r_N, bounds, noise, anchor_residual, direction)
        u = median if reason is None else nearer_end(r_N, median)
        residual_3 = sorted((sign * posterior.residuals(u, [0.025, 0.5, 0.975])).tolist())
    lambda_hat, low, high = from_position(np.array([u, min(u, low), max(u, high)]), bounds).tolist()
    residual_low, expected, residual_high = residual_3
    return Match(lambda_hat, low, high, expected, residual_low, residual_high, reason is None, reason)


@cache
def _find_libraries() -> ThreadpoolController:
    return ThreadpoolController()  # takes 10 ms


def one_thread() -> AbstractContextManager[object]:
    """Run BLAS on one thread: with small matrices, threads only wait for each other while workers are busy."""
    return _find_libraries().limit(limits=1, user_api="blas")


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
