"""Two arms compared, paired by seed: t test, Holm's correction, effect size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

from analysis.statistics.intervals import LEVEL, Interval, differences, spread, student_t

#: A t statistic beyond which its noncentrality is proportional to it, to four digits.
FAR = 1e3


@dataclass(frozen=True)
class Comparison:
    """One arm against another on one metric.

    difference: of the means, ours − theirs, over the n seeds that both have; None where there is no such seed.
    t: the paired t statistic, mean · √n / s; None where nothing can be tested: with fewer than two pairs, or where all
    differences are equal.
    """

    difference: Interval | None
    t: float | None

    @classmethod
    def from_seeds(cls, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Comparison:
        """ours, theirs: seed → value; only seeds in both count."""
        differences_S = differences(ours, theirs).values()
        if not differences_S:
            return cls(None, None)
        difference, n = student_t(differences_S), len(differences_S)
        s = spread(differences_S) if n > 1 else 0.0
        return cls(difference, difference.mean * math.sqrt(n) / s if s else None)

    @property
    def n(self) -> int:
        """How many seeds both have."""
        return self.difference.n if self.difference else 0

    @property
    def p(self) -> float | None:
        """Two-sided, of the paired t test, before any correction; None where t is."""
        return None if self.t is None else 2 * float(special.stdtr(self.n - 1, -abs(self.t)))

    @property
    def effect(self) -> Interval | None:
        """g_z and the interval of δ_z (see ``effect_size``); None where t is, and at n = 2."""
        return None if self.t is None or self.n < 3 else effect_size(self.t, self.n)


def effect_size(t: float, n: int, level: float = LEVEL) -> Interval:
    """Hedges' g_z of n paired differences whose t statistic is t, and the exact interval of δ_z = μ/σ.

    g_z = J(n−1) · t/√n, J(ν) = Γ(ν/2) / (√(ν/2) · Γ((ν−1)/2)), which takes the bias off d_z = mean/s (Hedges 1981).
    Its bounds are the δ_z at which t lies at either tail of the noncentral t with noncentrality δ_z·√n.

    n ≥ 3: of two pairs, d_z has no mean. level: coverage, in (0, 1). Unit: standard deviations of the differences.
    """
    nu, tail = n - 1, (1 - level) / 2
    log_j = special.gammaln(nu / 2) - math.log(nu / 2) / 2 - special.gammaln((nu - 1) / 2)
    low, high = (_noncentrality(t, nu, share) / math.sqrt(n) for share in (1 - tail, tail))
    return Interval(math.exp(log_j) * t / math.sqrt(n), None, n, (low, high))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction over a family: the i-th smallest of m is max over j ≤ i of min(1, (m − j + 1)·p_j).

    p_values: in [0, 1]; None where nothing was tested, which is no member of the family and stays None.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(tested):
        corrected[place] = highest = max(highest, min(1.0, (len(tested) - rank) * p))
    return corrected


def _noncentrality(t: float, nu: int, share: float) -> float:
    """The noncentrality δ at which the noncentral t of ν degrees of freedom lies below t with probability ``share``.

    It is the (1 − share) quantile of |t|·S + Z, with S² ~ χ²_ν/ν and Z normal: hence the bracket. Written for |t|, as
    T → −T, δ → −δ mirrors the distribution; beyond FAR, where Z no longer counts, it is proportional to t.
    """
    from scipy import optimize, stats  # slow to import, and only an effect's interval needs them

    if t < 0:
        return -_noncentrality(-t, nu, 1 - share)
    if t > FAR:
        return t / FAR * _noncentrality(FAR, nu, share)
    low, high = (
        t * math.sqrt(stats.chi2.ppf(q, nu) / nu) + stats.norm.ppf(q) for q in ((1 - share) / 2, 1 - share / 2)
    )
    return float(optimize.brentq(lambda delta: stats.nct.cdf(t, nu, delta) - share, low, high, rtol=1e-6))
