"""A smooth curve: the posterior of its root under a Gaussian process with a rising trend.

Shapes: N observations, G positions, H hyperparameter settings, J lengths, R residuals. A position u is log λ, scaled so
that the searched range is [0, 1].
"""

from itertools import product

import numpy as np
from scipy.special import ndtr

from tune_interpreg.search.matching.steps import COLLAPSED, Array

# Lengths of the Matérn part, in widths of the range. Losses bend within a tenth of the range. With larger lengths, the
# curves miss the bend and the interval misses the root.
LENGTHS = (0.15, 0.3, 0.6)
AMPLITUDES = (0.5, 1.0, 2.0)  # of the Matérn part, in scales of the data
NOISES = (1.0, 1.4, 2.0, 2.8, 4.0, 8.0)  # standard deviation of the noise, in floors; prior 1 / level
LIGHT = 1e-3  # weight of a setting, relative to the largest, below which predictions leave it out
LINEAR_REACH = 30.0  # noise floors; values (without a target: residuals) up to this size are hardly compressed


class SmoothModel:
    """A smooth curve r(u), observed with Gaussian noise, with hyperparameters integrated out.

    The residuals are compressed: y = asinh((r + t) / s) − asinh(t / s), with t the target. This keeps sign and root,
    and a loss that grows like a power of λ becomes nearly straight. The prior is

        y(u) ~ GP(c·(u − 1/2), a²·Matérn52(|u − u'| / ℓ) + c² + (1.5·c)²·(u − 1/2)(u' − 1/2)),  c = max |y|.

    (ℓ, a, noise) are not optimised but weighted by their marginal likelihood on a fixed grid, which keeps the intervals
    wide enough with few points.

    Args:
        u_N: positions of the observations, N ≥ 2.
        r_N: finite residuals.
        noise: smallest standard deviation of the residuals, > 0.
        bounds: the positions that the prior's range stands for.
        power: p; the curve is smooth over u^p, so that its prior is flat where the range begins. A negative one makes
            it flat where the range ends: 1 − (1 − u)^|p|.
        stray_N: probability that a training collapsed. Its residual counts with a variance larger by 1 / (1 − p).
        stray_density_N: density of the residual of a collapsed training.
        target: t, if known. Without it, residuals are compressed about 0, and less.

    Attributes:
        density_N: leave-one-out density of each residual.
    """

    def __init__(
        self,
        u_N: Array,
        r_N: Array,
        noise: float,
        *,
        bounds: tuple[float, float],
        power: float = 1.0,
        stray_N: Array,
        stray_density_N: Array,
        target: float | None,
    ) -> None:
        self.bounds, self._power = bounds, power
        usual = max(LINEAR_REACH * noise, float(np.median(np.abs(r_N))))
        self._bend, self._centre = (usual, 0.0) if target is None else (LINEAR_REACH * noise, target)
        self._u_N = self._scale_position(u_N)
        y_N, slope_N = self._compress(r_N), 1 / np.hypot(self._bend, r_N + self._centre)  # slope: dy/dr
        floor = noise / float(np.hypot(self._bend, self._centre))
        trust_N = np.maximum(1 - stray_N, 1e-6)
        self._scale = max(float(np.abs(y_N[trust_N > 0.5]).max(initial=0.0)), floor)
        self._length_H, self._amplitude_H, level_H = np.array(list(product(LENGTHS, AMPLITUDES, NOISES))).T
        own_noise_HN = np.square(np.outer(level_H, noise * slope_N)) + 1e-10 * self._scale**2
        gram_HNN = self._covariance(self._u_N, self._u_N) + (own_noise_HN / trust_N)[:, :, None] * np.eye(u_N.size)
        self._inverse_HNN = np.linalg.inv(gram_HNN)
        error_N = y_N - self._trend(self._u_N)
        self._alpha_HN = self._inverse_HNN @ error_N
        log_H = -np.log(level_H) - 0.5 * (self._alpha_HN @ error_N + np.linalg.slogdet(gram_HNN)[1])
        weight_H = np.exp(log_H - log_H.max())
        weight_H /= weight_H.sum()
        # Given the others, y_i is Gaussian with variance 1 / K⁻¹_ii around y_i − α_i / K⁻¹_ii.
        variance_HN = 1 / np.einsum("hnn->hn", self._inverse_HNN)
        miss_HN = self._alpha_HN * variance_HN
        variance_HN = variance_HN - own_noise_HN / trust_N + own_noise_HN
        gauss_HN = np.exp(-0.5 * np.square(miss_HN) / variance_HN) / np.sqrt(2 * np.pi * variance_HN)
        density_HN = (1 - COLLAPSED) * gauss_HN * slope_N + stray_density_N
        self.density_N = 1 / (weight_H @ (1 / density_HN))
        # Most settings have no weight after a few observations.
        kept_H = weight_H > LIGHT * weight_H.max()
        self._weight_H = weight_H[kept_H] / weight_H[kept_H].sum()
        self._length_H, self._amplitude_H = self._length_H[kept_H], self._amplitude_H[kept_H]
        self._inverse_HNN, self._alpha_HN = self._inverse_HNN[kept_H], self._alpha_HN[kept_H]

    def above(self, u_G: Array) -> Array:
        """Return the probability that the curve is above 0 at each of the ascending positions, made to rise."""
        mean_HG, sd_HG = self._moments(u_G)
        above_G = self._weight_H @ ndtr(mean_HG / sd_HG)
        from_left_G, from_right_G = np.maximum.accumulate(above_G), np.minimum.accumulate(above_G[::-1])[::-1]
        return np.asarray((from_left_G + from_right_G) / 2)

    def below(self, u: float, r_R: Array) -> Array:
        """Return the probability that the curve at u lies below each of the residuals."""
        mean_H1, sd_H1 = self._moments(np.array([u]))
        return np.asarray(self._weight_H @ ndtr((self._compress(r_R) - mean_H1) / sd_H1))

    def _moments(self, u_G: Array) -> tuple[Array, Array]:
        u_G = self._scale_position(u_G)
        cross_HNG = self._covariance(self._u_N, u_G)
        mean_HG = self._trend(u_G) + np.einsum("hng,hn->hg", cross_HNG, self._alpha_HN)
        prior_HG = self._scale**2 * (np.square(self._amplitude_H)[:, None] + 1 + 1.5**2 * np.square(u_G - 0.5))
        explained_HG = np.einsum("hng,hng->hg", cross_HNG, self._inverse_HNN @ cross_HNG)
        return mean_HG, np.sqrt(np.maximum(prior_HG - explained_HG, 1e-10 * self._scale**2))

    def _compress(self, r: Array) -> Array:
        return np.asarray(np.arcsinh((r + self._centre) / self._bend) - np.arcsinh(self._centre / self._bend))

    def _scale_position(self, u: Array) -> Array:
        low, high = self.bounds
        part = (np.clip(u, low, high) - low) / (high - low)
        return np.asarray(part**self._power if self._power > 0 else 1 - (1 - part) ** -self._power)

    def _trend(self, u: Array) -> Array:
        return self._scale * (u - 0.5)

    def _covariance(self, u_A: Array, u_B: Array) -> Array:
        distance_AB = np.sqrt(5) * np.abs(u_A[:, None] - u_B)
        lengths, which_H = np.unique(self._length_H, return_inverse=True)
        distance_JAB = distance_AB / lengths[:, None, None]
        matern_JAB = (1 + distance_JAB + np.square(distance_JAB) / 3) * np.exp(-distance_JAB)
        linear_AB = 1 + 1.5**2 * np.outer(u_A - 0.5, u_B - 0.5)
        return np.asarray(
            self._scale**2 * (np.square(self._amplitude_H)[:, None, None] * matern_JAB[which_H] + linear_AB)
        )
