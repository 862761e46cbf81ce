"""Means over seeds with Student t intervals; n always stays beside them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """mean ± half_width over n values, in the unit of the values; half_width is None where n = 1."""

    mean: float
    half_width: float | None
    n: int

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit, e.g. factor = 100 from fractions to percent."""
        half_width = None if self.half_width is None else factor * self.half_width
        return Interval(factor * self.mean, half_width, self.n)


def student_t(values: Collection[float], level: float = LEVEL) -> Interval:
    """Two-sided Student t interval of a mean.

    x̄ ± t_{(1+level)/2, n−1} · s / √n, with s the standard deviation at ddof 1.

    values: n finite numbers, one a seed. level: coverage, in (0, 1). Returns the interval, its half-width None
    at n = 1. Raises ValueError where there is no value, or one that is not finite.
    """
    x_S = np.asarray(list(values), dtype=float)
    n = x_S.size
    if n == 0 or not np.isfinite(x_S).all():
        raise ValueError(f"an interval takes one finite value or more, got {x_S.tolist()}")
    if n == 1:
        return Interval(float(x_S[0]), None, 1)
    quantile = float(stats.t.ppf((1 + level) / 2, n - 1))
    return Interval(float(x_S.mean()), quantile * float(x_S.std(ddof=1)) / math.sqrt(n), n)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float], level: float = LEVEL) -> Interval:
    """Student t interval of the mean difference ours − theirs, paired by seed.

    ours, theirs: seed → value; only seeds in both count, and n says how many. Raises ValueError where no seed is.
    """
    shared = sorted(ours.keys() & theirs.keys())
    return student_t([ours[seed] - theirs[seed] for seed in shared], level)
