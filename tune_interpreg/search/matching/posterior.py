"""The posterior of the root of a noisy rising curve, under a Gaussian process.

Shapes: N observations, R running trials, G grid points, H hyperparameter settings, M drawn curves. A position u is
log λ, scaled so that the searched range is [0, 1].
"""

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

GRID = 200
# Lengths of the Matérn part, in widths of the range. Losses bend within a tenth of the range. With larger lengths, the
# curves miss the bend and the interval misses the root.
LENGTHS = (0.15, 0.3, 0.6)
AMPLITUDES = (0.5, 1.0, 2.0)  # of the Matérn part, in scales of the data
NOISES = (1.0, 1.4, 2.0, 2.8, 4.0, 8.0)  # standard deviation of the noise, in floors; prior 1 / level
ANCHOR = -0.5  # position of the anchor, which stands for λ → 0
OVERSAMPLING = 8  # curves drawn per returned root
FALL = 0.003  # area on the wrong side of zero that divides a curve's weight by e, in scales of the data times the range
LINEAR_REACH = 30.0  # noise floors; losses (without a target: residuals) up to this size are hardly compressed
SATURATED = 1e4  # times the size at which compression begins; a larger residual counts as its sign only


class RootPosterior:
    """The posterior of the root of a rising curve r(u), observed with noise, with hyperparameters integrated out.

    The residuals are compressed: y = asinh((r + t) / s) − asinh(t / s), with t the target. This keeps sign and root,
    and a loss that grows like a power of λ becomes nearly straight. The prior is

        y(u) ~ GP(c·(u − 1/2), a²·Matérn52(|u − u'| / ℓ) + c² + (1.5·c)²·(u − 1/2)(u' − 1/2)),  c = max |y|.

    (ℓ, a, noise) are not optimised but weighted by their marginal likelihood on a fixed grid, which keeps the intervals
    wide enough with few points.

    Args:
        u_N: positions of the observations.
        r_N: residuals, loss − target. ±inf counts as its sign only, and so does a residual far above all others.
        noise: smallest standard deviation of the residuals, > 0.
        target: t, if known. Without it, residuals are compressed about 0, and less.
        anchor: residual as λ → 0, if known. It stands half a range below the range. Its standard deviation is at least
            half its distance from the observation at the smallest λ, because the curve lies between the two.
    """

    def __init__(
        self, u_N: ArrayLike, r_N: ArrayLike, *, noise: float, target: float | None = None, anchor: float | None = None
    ) -> None:
        u_N, r_N = np.asarray(u_N, float), np.asarray(r_N, float)
        order_N = np.lexsort((r_N, u_N))
        u_N, r_N = u_N[order_N], r_N[order_N]
        sizes_N = np.abs(r_N[np.isfinite(r_N)])
        usual = max(LINEAR_REACH * noise, np.median(sizes_N) if sizes_N.size else 0.0)
        self._bend, self._centre = (usual, 0.0) if target is None else (LINEAR_REACH * noise, target)
        signed_N = np.abs(r_N) > SATURATED * usual
        r_N = np.where(signed_N, np.copysign(np.inf, r_N), r_N)
        self._sign_weight_G = _sign_weights(u_N[signed_N], r_N[signed_N])
        if anchor is not None:
            u_N, r_N = np.insert(u_N, 0, ANCHOR), np.insert(r_N, 0, anchor)
        self._u_N = u_N
        self._y_N, self._sd_N = self._compress(r_N, noise)
        if anchor is not None:
            self._sd_N[0] = max(self._sd_N[0], abs(self._y_N[1] - self._y_N[0]) / 2)
        self._floor = float(noise * self._slope(0.0))
        self._scale = max(np.abs(self._y_N).max(), self._floor)
        self._settings_H = list(product(LENGTHS, AMPLITUDES, NOISES))
        gram_HNN = self._gram(self._u_N, self._sd_N)
        error_N = self._y_N - self._trend(self._u_N)
        self._alpha_HN = np.linalg.solve(gram_HNN, error_N)
        prior_H = -np.log([noise for _, _, noise in self._settings_H])
        log_H = prior_H - 0.5 * (self._alpha_HN @ error_N + np.linalg.slogdet(gram_HNN)[1])
        weight_H = np.exp(log_H - log_H.max())
        self._weight_H = weight_H / weight_H.sum()

    def roots(self, count: int, rng: np.random.Generator, running: ArrayLike = ()) -> Array:
        """Draw roots in [0, 1]. Exactly 0 or 1 means that a drawn curve does not rise through zero inside.

        Curves are resampled with weights exp(−A / FALL). A is the area above zero left of the root and below zero right
        of it. A rising curve has none.

        Args:
            running: positions under evaluation, shape (R,). The curve is taken as known there, at its mean.
        """
        paths_MG = self._paths(OVERSAMPLING * count, rng, np.sort(np.asarray(running, float)))
        u_M = _rising_roots(paths_MG, self._sign_weight_G)
        area_M = _wrong_area(paths_MG, u_M) / self._scale
        weight_M = np.exp((area_M.min() - area_M) / FALL)
        return rng.choice(u_M, count, p=weight_M / weight_M.sum())

    def mean(self, u: float) -> float:
        """Return the expected residual at u, for the mean of y: r = s·sinh(y + asinh(t / s)) − t."""
        cross_HN1 = self._covariance(self._u_N, np.array([u]))
        y_H = self._trend(np.array([u])) + np.einsum("hn,hn->h", cross_HN1[..., 0], self._alpha_HN)
        y = self._weight_H @ y_H
        return float(self._bend * np.sinh(y + np.arcsinh(self._centre / self._bend)) - self._centre)

    def _compress(self, r_N: Array, noise: float) -> tuple[Array, Array]:
        """Return y and its standard deviation. A sign alone counts as the largest |y|, ± half of it."""
        signed_N = np.isinf(r_N)
        finite_N = np.where(signed_N, 0.0, r_N)
        y_N = np.arcsinh((finite_N + self._centre) / self._bend) - np.arcsinh(self._centre / self._bend)
        stand_in = max(0.5, np.abs(y_N).max())
        sd_N = np.where(signed_N, stand_in / 2, noise * self._slope(finite_N))
        return np.where(signed_N, np.sign(r_N) * stand_in, y_N), sd_N

    def _slope(self, r_N: Array | float) -> Array:
        """Return dy/dr."""
        return 1 / np.hypot(self._bend, r_N + self._centre)

    def _paths(self, count: int, rng: np.random.Generator, running_R: Array) -> Array:
        u_G = np.linspace(0, 1, GRID)
        u_N = np.append(self._u_N, running_R)
        sd_N = np.append(self._sd_N, np.full(running_R.size, self._floor))
        paths = []
        for h, curves in enumerate(rng.multinomial(count, self._weight_H)):
            if curves:
                setting = slice(h, h + 1)
                mean_G = self._trend(u_G) + self._alpha_HN[h] @ self._covariance(self._u_N, u_G, setting)[0]
                cross_NG = self._covariance(u_N, u_G, setting)[0]
                explained_GG = cross_NG.T @ np.linalg.solve(self._gram(u_N, sd_N, setting)[0], cross_NG)
                rest_GG = self._covariance(u_G, u_G, setting)[0] - explained_GG
                lower_GG = np.linalg.cholesky(rest_GG + 1e-8 * self._scale**2 * np.eye(GRID))
                paths.append(mean_G + rng.standard_normal((curves, GRID)) @ lower_GG.T)
        return np.concatenate(paths)

    def _trend(self, u: Array) -> Array:
        return self._scale * (u - 0.5)

    def _covariance(self, u_A: Array, u_B: Array, settings: slice = slice(None)) -> Array:
        length_H, amplitude_H, _ = np.array(self._settings_H[settings]).T[..., None, None]
        distance_HAB = np.sqrt(5) * np.abs(u_A[:, None] - u_B) / length_H
        matern_HAB = (1 + distance_HAB + np.square(distance_HAB) / 3) * np.exp(-distance_HAB)
        linear_AB = 1 + 1.5**2 * np.outer(u_A - 0.5, u_B - 0.5)
        return self._scale**2 * (amplitude_H**2 * matern_HAB + linear_AB)

    def _gram(self, u_N: Array, sd_N: Array, settings: slice = slice(None)) -> Array:
        level_H11 = np.array(self._settings_H[settings])[:, 2, None, None]
        jitter_NN = 1e-10 * self._scale**2 * np.eye(u_N.size)
        noise_HNN = np.square(level_H11) * np.diag(np.square(sd_N)) + jitter_NN
        return self._covariance(u_N, u_N, settings) + noise_HNN


def _sign_weights(u_N: Array, sign_N: Array) -> Array:
    """Return weights on the grid, larger than any curve's integral, at the positions where only a sign is known."""
    cell_N = np.rint(np.clip(u_N, 0, 1) * (GRID - 1)).astype(int)
    return np.asarray(np.bincount(cell_N, 1e6 * np.sign(sign_N), GRID), float)


def _rising_roots(paths_MG: Array, sign_weight_G: Array) -> Array:
    """Return argmin over u of ∫₀ᵘ r: the position at which the best rising fit to each curve changes sign."""
    cell_M = np.pad(np.cumsum(paths_MG + sign_weight_G, axis=1), ((0, 0), (1, 0))).argmin(1)
    right_M = np.clip(cell_M, 1, GRID - 1)
    rows_M = np.arange(len(paths_MG))
    before_M, after_M = paths_MG[rows_M, right_M - 1], paths_MG[rows_M, right_M]
    rises_M = (before_M < 0) & (after_M > 0)
    part_M = np.where(rises_M, before_M / np.where(rises_M, before_M - after_M, 1.0), 0.5)
    inside_M = (right_M - 1 + part_M) / (GRID - 1)
    return np.where(cell_M == 0, 0.0, np.where(cell_M == GRID, 1.0, inside_M))


def _wrong_area(paths_MG: Array, u_M: Array) -> Array:
    """Return ∫ max(r, 0) left of u + ∫ max(−r, 0) right of u."""
    side_MG = np.where(np.linspace(0, 1, GRID) < u_M[:, None], 1.0, -1.0)
    return np.maximum(side_MG * paths_MG, 0).mean(1)
