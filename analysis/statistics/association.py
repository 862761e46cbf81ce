"""The association of two measures over the models of a study: Spearman's ρ, and its partial form.

Shapes: M models. Models of one seed share their start, so intervals resample seeds, not models.
"""

from collections.abc import Sequence

import numpy as np
import scipy  # scipy.stats takes half a second to import, so it is loaded on first use

from analysis.statistics.intervals import LEVEL, Interval

#: Resamples of the seeds, and the largest |ρ| that has a finite Fisher transform.
RESAMPLES, LARGEST = 2000, 1 - 1e-6


def spearman(x_M: np.ndarray, y_M: np.ndarray) -> float:
    """Return Spearman's ρ, the correlation of ranks; equal values share the mean of theirs. 0 if x or y is constant."""
    return _correlation(_ranks(x_M), _ranks(y_M))


def partial_spearman(x_M: np.ndarray, y_M: np.ndarray, z_M: np.ndarray) -> float:
    """Return the partial correlation of the ranks of x and y given those of z.

    ρ_xy·z = (ρ_xy − ρ_xz·ρ_yz) / √((1 − ρ_xz²)(1 − ρ_yz²)); 0 if z determines the ranks of x or y.
    """
    xy, xz, yz = spearman(x_M, y_M), spearman(x_M, z_M), spearman(y_M, z_M)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / rest**0.5 if rest > 1e-12 else 0.0


def association(
    x_M: Sequence[float], y_M: Sequence[float], seeds: Sequence[int], given: Sequence[float] | None = None
) -> Interval | None:
    """Return ρ of x and y with its 95% interval by a bootstrap over seeds; None with fewer than 3 models.

    The interval is tanh(artanh ρ ± t_{S−1}·SE), SE the standard deviation of artanh ρ over resamples of the S seeds
    with replacement, times √(S/(S − 1)), but at least 1/√(M − 3), that of independent models. With few seeds,
    percentiles of the resamples cover too rarely. It covers other seeds of these arms, not other arms. Without several
    seeds there are no bounds.

    Args:
        x_M, y_M: the measures of each model; finite.
        seeds: the seed of each model.
        given: a third measure; ρ is then the partial correlation.

    Returns:
        The interval; its n is the number of models.
    """
    data_DM = np.asarray([x_M, y_M, *([given] if given is not None else [])], dtype=float)
    if data_DM.shape[1] < 3:
        return None
    function = spearman if given is None else partial_spearman
    rho, models = function(*data_DM), data_DM.shape[1]
    groups = [np.flatnonzero(np.asarray(seeds) == seed) for seed in dict.fromkeys(seeds)]
    count = len(groups)
    if count < 2:
        return Interval(rho, None, models)
    generator = np.random.default_rng(0)
    draws = generator.integers(count, size=(RESAMPLES, count))
    resampled = [function(*data_DM[:, np.concatenate([groups[s] for s in draw])]) for draw in draws]
    error = float(np.std(_fisher(np.asarray(resampled)))) * (count / (count - 1)) ** 0.5
    error = max(error, max(models - 3, 1) ** -0.5)
    reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    center = float(_fisher(np.asarray(rho)))
    return Interval(rho, None, models, (float(np.tanh(center - reach)), float(np.tanh(center + reach))))


def _fisher(rho: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(rho, -LARGEST, LARGEST))


def _ranks(x_M: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.stats.rankdata(x_M))


def _correlation(x_M: np.ndarray, y_M: np.ndarray) -> float:
    x_M, y_M = x_M - x_M.mean(), y_M - y_M.mean()
    size = float((x_M @ x_M) * (y_M @ y_M)) ** 0.5
    return float(x_M @ y_M) / size if size else 0.0
