"""The association of two measures over the models of a study: Spearman's ρ, and its partial form.

Shapes: M models, R samples of them, S seeds. Models of one seed share their start, so intervals resample seeds, not
models.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special  # scipy.stats takes half a second to import

from analysis.statistics.intervals import LEVEL, Interval

#: Resamples of the seeds, and the largest |ρ| that has a finite Fisher transform.
RESAMPLES, LARGEST = 2000, 1 - 1e-6


def spearman(x_M: np.ndarray, y_M: np.ndarray, *, count_RM: np.ndarray) -> np.ndarray:
    """Return Spearman's ρ_R, the correlation of ranks, of R samples that hold model m count_RM[r, m] times.

    Equal values share the mean of their ranks, so Σ_j sign(x_m − x_j) over a sample is 2·(rank of x_m − mean rank).
    ρ is 0 if x or y is constant.
    """
    x_RM, y_RM = (count_RM @ np.sign(values_M - values_M[:, None]) for values_M in (x_M, y_M))
    size_R = ((count_RM * x_RM**2).sum(1) * (count_RM * y_RM**2).sum(1)) ** 0.5
    return np.divide((count_RM * x_RM * y_RM).sum(1), size_R, out=np.zeros_like(size_R), where=size_R > 0)


def partial_spearman(x_M: np.ndarray, y_M: np.ndarray, z_M: np.ndarray, *, count_RM: np.ndarray) -> np.ndarray:
    """Return the partial correlation of the ranks of x and y given those of z, of R samples.

    ρ_xy·z = (ρ_xy − ρ_xz·ρ_yz) / √((1 − ρ_xz²)(1 − ρ_yz²)); 0 if z determines the ranks of x or y.
    """
    xy_R, xz_R, yz_R = (spearman(*pair, count_RM=count_RM) for pair in ((x_M, y_M), (x_M, z_M), (y_M, z_M)))
    rest_R = (1 - xz_R**2) * (1 - yz_R**2)
    return np.divide(xy_R - xz_R * yz_R, np.abs(rest_R) ** 0.5, out=np.zeros_like(rest_R), where=rest_R > 1e-12)


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
    function, models = spearman if given is None else partial_spearman, data_DM.shape[1]
    rho = function(*data_DM, count_RM=np.ones((1, models)))[0]
    numbers_S, seed_M = np.unique(seeds, return_inverse=True)
    count = len(numbers_S)
    if count < 2:
        return Interval(float(rho), None, models)
    drawn_RS = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    count_RS = np.stack([(drawn_RS == seed).sum(1) for seed in range(count)], 1)
    resampled_R = function(*data_DM, count_RM=count_RS[:, seed_M].astype(float))
    error = float(np.std(_fisher(resampled_R))) * (count / (count - 1)) ** 0.5
    error = max(error, max(models - 3, 1) ** -0.5)
    reach = float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    center = float(_fisher(rho))
    return Interval(float(rho), None, models, (float(np.tanh(center - reach)), float(np.tanh(center + reach))))


def _fisher(rho: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(rho, -LARGEST, LARGEST))
