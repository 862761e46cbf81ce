"""Confidence intervals: Student t for means over seeds, Wilson for shares of images."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats takes half a second to import

LEVEL = 0.95

#: Significant digits of a value. A difference beyond them is rounding.
DIGITS = 12


@dataclass(frozen=True)
class Interval:
    """A mean over n values and its confidence interval, both in the values' unit.

    half_width: of a symmetric interval, mean ± half_width; None at n = 1 or if bounds are given.
    bounds: (low, high) of an asymmetric interval, such as Wilson's.
    """

    mean: float
    half_width: float | None
    n: int
    bounds: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        """The lower and the upper end, or None without an interval."""
        if self.bounds or self.half_width is None:
            return self.bounds
        return self.mean - self.half_width, self.mean + self.half_width

    @property
    def sign(self) -> int:
        """+1 or −1 if the whole interval is above or below 0; 0 if it contains 0, has no width, or is absent."""
        low, high = self.ends or (0.0, 0.0)
        return 0 if low == high else (low > 0) - (high < 0)

    def lies_within(self, margin: float) -> bool:
        """Return True if the interval has a width and lies within ±margin."""
        low, high = self.ends or (0.0, 0.0)
        return -margin <= low < high <= margin

    def scaled(self, factor: float) -> Interval:
        """Return the interval in another unit, e.g. with factor = 100 from fractions to percent; factor > 0."""
        half_width = None if self.half_width is None else factor * self.half_width
        bounds = self.bounds and (factor * self.bounds[0], factor * self.bounds[1])
        return Interval(factor * self.mean, half_width, self.n, bounds)


def student_t(values: Collection[float], level: float = LEVEL) -> Interval:
    """Return the mean of n values and its two-sided Student t interval, x̄ ± t_{(1+level)/2, n−1} · s / √n.

    values: finite numbers, one per seed. level: coverage, in (0, 1). The half-width is None at n = 1.
    Raises ValueError if there is no value or one is not finite.
    """
    x_S = np.asarray(list(values), dtype=float)
    n = x_S.size
    if n == 0 or not np.isfinite(x_S).all():
        raise ValueError(f"an interval needs one or more finite values, got {x_S.tolist()}")
    if n == 1:
        return Interval(float(x_S[0]), None, 1)
    quantile = float(special.stdtrit(n - 1, (1 + level) / 2))
    return Interval(float(x_S.mean()), quantile * standard_deviation(x_S) / math.sqrt(n), n)


def standard_deviation(values: Collection[float]) -> float:
    """Return s of two or more values, with ddof = 1; 0 if it is below 10⁻¹² · max|x|, as then it is rounding."""
    x_S = np.asarray(list(values), dtype=float)
    s = float(x_S.std(ddof=1))
    return s if s > 10.0**-DIGITS * float(np.abs(x_S).max()) else 0.0


def paired_differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """Return seed → ours − theirs for the seeds that both have; ours, theirs: seed → value."""
    return {seed: subtract(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}


def subtract(ours: float, theirs: float) -> float:
    """Return ours − theirs, rounded to the digits that both have: 0.816 − 0.815 is 0.001, as 0.716 − 0.715 is.

    Otherwise the rounding of equal differences would look like a spread, and a t test would find it significant.
    """
    largest = max(abs(ours), abs(theirs))
    if largest == 0 or not math.isfinite(largest):
        return ours - theirs
    return round(ours - theirs, DIGITS - 1 - math.floor(math.log10(largest)))


def wilson(share: float, images: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval for a share of images, such as one model's accuracy on a test set.

    (p + z²/2N ± z·√(p(1−p)/N + z²/4N²)) / (1 + z²/N), with z the normal quantile of (1+level)/2 (Wilson 1927).
    It covers other images, not other seeds.

    share: p, in [0, 1]. images: N ≥ 1. level: coverage, in (0, 1). Returns (low, high), in [0, 1].
    """
    z = float(special.ndtri((1 + level) / 2))
    center = share + z**2 / (2 * images)
    reach = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    scale = 1 + z**2 / images
    return max(0.0, (center - reach) / scale), min(1.0, (center + reach) / scale)
