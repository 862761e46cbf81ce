"""Means over seeds with Student t intervals, shares of images with Wilson's; n always stays beside them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special  # whose quantiles are those of scipy.stats, which takes a second to import

LEVEL = 0.95

#: Digits of a value that count: what differs beyond them is rounding.
DIGITS = 12


@dataclass(frozen=True)
class Interval:
    """A mean over n values, in their unit, and its interval: mean ± half_width, or else bounds, or none.

    half_width: of a symmetric interval; None at n = 1, and where bounds are given.
    bounds: (low, high) of an interval that is not symmetric about the mean, such as Wilson's.
    """

    mean: float
    half_width: float | None
    n: int
    bounds: tuple[float, float] | None = None

    @property
    def low(self) -> float | None:
        """The lower end; None where there is no interval."""
        return self.bounds[0] if self.bounds else None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """The upper end; None where there is no interval."""
        return self.bounds[1] if self.bounds else None if self.half_width is None else self.mean + self.half_width

    @property
    def sign(self) -> int:
        """+1 or −1 where the interval lies above or below 0; 0 where it holds 0, has no width, or is none."""
        if self.low is None or self.high is None or self.low == self.high:
            return 0
        return (self.low > 0) - (self.high < 0)

    def inside(self, margin: float) -> bool:
        """Whether the whole interval, of some width, lies within ±margin."""
        if self.low is None or self.high is None or self.low == self.high:
            return False
        return -margin <= self.low and self.high <= margin

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit, e.g. factor = 100 from fractions to percent; factor > 0."""
        half_width = None if self.half_width is None else factor * self.half_width
        bounds = self.bounds and (factor * self.bounds[0], factor * self.bounds[1])
        return Interval(factor * self.mean, half_width, self.n, bounds)


def student_t(values: Collection[float], level: float = LEVEL) -> Interval:
    """Two-sided Student t interval of a mean.

    x̄ ± t_{(1+level)/2, n−1} · s / √n, with s the standard deviation at ddof 1; s counts as 0 below 1e-12 · max|x|.

    values: n finite numbers, one a seed. level: coverage, in (0, 1). Returns the interval, its half-width None
    at n = 1. Raises ValueError where there is no value, or one that is not finite.
    """
    x_S = np.asarray(list(values), dtype=float)
    n = x_S.size
    if n == 0 or not np.isfinite(x_S).all():
        raise ValueError(f"an interval takes one finite value or more, got {x_S.tolist()}")
    if n == 1:
        return Interval(float(x_S[0]), None, 1)
    quantile = float(special.stdtrit(n - 1, (1 + level) / 2))
    return Interval(float(x_S.mean()), quantile * spread(x_S) / math.sqrt(n), n)


def spread(values: Collection[float]) -> float:
    """The standard deviation s of two values or more, at ddof 1; 0 where it is but the rounding of equal values."""
    x_S = np.asarray(list(values), dtype=float)
    s = float(x_S.std(ddof=1))
    return s if s > 10.0**-DIGITS * float(np.abs(x_S).max()) else 0.0


def differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """seed → ours − theirs, of the seeds that have both, in their order; ours, theirs: seed → value."""
    return {seed: difference(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}


def difference(ours: float, theirs: float) -> float:
    """ours − theirs, to the digits that both have: 0.816 − 0.815 is 0.001, as 0.716 − 0.715 is.

    Else the rounding of equal differences would be a spread, and a t test would find it significant.
    """
    largest = max(abs(ours), abs(theirs))
    if largest == 0 or not math.isfinite(largest):
        return ours - theirs
    return round(ours - theirs, DIGITS - 1 - math.floor(math.log10(largest)))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float], level: float = LEVEL) -> Interval:
    """Student t interval of the mean difference ours − theirs, paired by seed.

    ours, theirs: seed → value; only seeds in both count, and n says how many. Raises ValueError where no seed is.
    """
    return student_t(differences(ours, theirs).values(), level)


def wilson(share: float, images: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share of images, as of one model's accuracy on a test set.

    (p + z²/2N ± z·√(p(1−p)/N + z²/4N²)) / (1 + z²/N), z the normal quantile of (1+level)/2 (Wilson 1927).

    share: p, in [0, 1]. images: N ≥ 1. level: coverage, in (0, 1). Returns (low, high), in [0, 1]: of what this model
    would reach on all images of the kind, not of what other seeds would.
    """
    z = float(special.ndtri((1 + level) / 2))
    middle = share + z**2 / (2 * images)
    reach = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    whole = 1 + z**2 / images
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)
