"""Two arms compared, paired by seed: t test, Holm's correction, effect size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import scipy  # scipy.stats takes half a second to import, so it is loaded on first use

from analysis.statistics.intervals import LEVEL, Interval, paired_differences, standard_deviation, student_t

#: From this t statistic on, its noncentrality is proportional to it, to four digits.
LARGE_T = 1e3


@dataclass(frozen=True)
class Comparison:
    """One arm minus another on one metric, paired by seed.

    difference: of the means, over the n seeds that both have; None without such a seed. t, p: of the two-sided paired t
    test, p before any correction; None with fewer than two pairs or if all differences are equal.
    """

    difference: Interval | None
    t: float | None
    p: float | None

    @classmethod
    def from_seeds(cls, ours: Mapping[int, float], theirs: Mapping[int, float], scale: float = 1.0) -> Comparison:
        """Compare two arms; ours, theirs: seed → value, only seeds of both count; scale: of the difference."""
        differences_S = list(paired_differences(ours, theirs).values())
        if not differences_S:
            return cls(None, None, None)
        difference = student_t(differences_S).scaled(scale)
        if len(differences_S) == 1 or standard_deviation(differences_S) == 0:
            return cls(difference, None, None)
        test = scipy.stats.ttest_1samp(differences_S, 0.0)
        return cls(difference, float(test.statistic), float(test.pvalue))

    @property
    def n(self) -> int:
        """The number of seeds that both have."""
        return self.difference.n if self.difference else 0

    @property
    def effect(self) -> Interval | None:
        """The effect size (see ``effect_size``), or None without a test or with two pairs only."""
        return None if self.t is None or self.n < 3 else effect_size(self.t, self.n)


def effect_size(t: float, n: int, level: float = LEVEL) -> Interval:
    """Return Hedges' g_z of n paired differences with t statistic t, and the exact interval of δ_z = μ/σ.

    g_z = J(n−1) · t/√n with J(ν) = Γ(ν/2) / (√(ν/2) · Γ((ν−1)/2)), which removes the bias of mean/s (Hedges 1981).
    The bounds are the δ_z at which t is the upper or lower tail's quantile of the noncentral t with noncentrality
    δ_z·√n.

    n ≥ 3. level: coverage, in (0, 1). Unit: standard deviations of the differences.
    """
    nu, tail = n - 1, (1 - level) / 2
    log_j = math.lgamma(nu / 2) - math.log(nu / 2) / 2 - math.lgamma((nu - 1) / 2)
    low, high = (_noncentrality(t, nu, share) / math.sqrt(n) for share in (1 - tail, tail))
    return Interval(math.exp(log_j) * t / math.sqrt(n), None, n, (low, high))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values after Holm's step-down correction: the i-th smallest of m is max over j ≤ i of (m − j + 1)·p_j.

    p_values: in [0, 1]; None is no test, does not count in m, and stays None. Corrected values are at most 1.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        corrected[place] = highest
    return corrected


def _noncentrality(t: float, nu: int, share: float) -> float:
    """Return δ such that the noncentral t with ν degrees of freedom is below t with probability ``share``.

    δ is the (1 − share) quantile of |t|·S + Z, with S² ~ χ²_ν/ν and Z normal, which gives the bracket of the root
    search. Negative t mirrors the distribution. For large t, Z does not matter and δ is proportional to t.
    """
    if t < 0:
        return -_noncentrality(-t, nu, 1 - share)
    if t > LARGE_T:
        return t / LARGE_T * _noncentrality(LARGE_T, nu, share)
    stats = scipy.stats
    low, high = (
        t * math.sqrt(stats.chi2.ppf(q, nu) / nu) + stats.norm.ppf(q) for q in ((1 - share) / 2, 1 - share / 2)
    )
    return float(scipy.optimize.brentq(lambda delta: stats.nct.cdf(t, nu, delta) - share, low, high, rtol=1e-6))
