"""A rising curve that may jump: the posterior of its root from noisy residuals, without any smoothness.

Shapes: N observations, E their positions and both ends of the range, G positions, S shapes, K settings of the noise,
H = S·K settings, L levels, R residuals. A position u is log λ, scaled so that the searched range is [0, 1].
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import betainc

Array = NDArray[np.float64]

BEND = 8.0  # noise floors; a larger residual counts by its logarithm, with a noise of 1/8 of it
RESOLUTION = 3.0  # levels per noise floor, near zero
LEVELS = 250  # at most, or the levels become wider
SHAPES = (1.0, 4.0, 20.0)  # α: number of jumps over the range that make up most of the rise
NOISES = (1.0, 2.0, 4.0)  # standard deviation of the noise, in floors; prior 1 / level
COLLAPSED = 0.1  # prior probability that a training learns nothing, with a value anywhere above the curve
FREAK = 0.01  # prior probability of a value anywhere
DIVERGED = (0.1, 1.0)  # probability that a training below the target diverges, relative to one above; prior equal
RAMP = 0.7  # prior probability that the curve rises along the gap with the root, rather than jumps somewhere in it
STRAIGHTNESS = 12.0  # of that rise, the shape of its gamma process; a chord has an infinite one
INTERIOR = 12  # positions at which the distribution is computed within a gap between two observations


class StepModel:
    """A rising curve with independent increments, observed with heavy-tailed noise and contamination.

    The residuals are compressed: y = asinh(r / (BEND · noise)), and y lies on a grid of levels. Between two positions
    the curve rises by a negative binomial number of levels, with shape α·(u' − u): the discrete form of a gamma
    process. For a small α the curve is a staircase, and its root is anywhere between two observations of different
    sign. For a large α the curve is nearly straight. An observation is the curve plus noise of Student's t with four
    degrees of freedom; or, if the training collapsed, uniform over all levels above the curve. A diverged training is
    evidence of a curve above 0, unless trainings diverge at random.

    A hidden Markov chain over the levels gives all distributions exactly: one pass forward, one pass backward.

    Args:
        u_N: positions of the observations in [0, 1], sorted, N ≥ 1.
        r_N: residuals. +inf is a diverged training, −inf a value far below the target.
        noise: standard deviation of the residuals, > 0.

    Attributes:
        bend: residual at which compression begins.
        r_L: residuals at the levels' upper edges.
        density_N: leave-one-out density of each residual.
        stray_N: probability that its training collapsed.
        stray_density_N: density of its residual if it collapsed.
    """

    def __init__(self, u_N: Array, r_N: Array, noise: float) -> None:
        self.bend = BEND * noise
        finite_N = np.isfinite(r_N)
        known_N = np.where(finite_N, r_N, 0.0)
        y_N = np.arcsinh(known_N / self.bend)
        low, high = min(y_N.min(), 0.0) - 4 / BEND, max(y_N.max(), 0.0) + 4 / BEND
        width = max(1 / (RESOLUTION * BEND), (high - low) / LEVELS)
        # No level is 0: the curve lies below or above.
        self._y_L = (np.arange(np.floor(low / width), np.ceil(high / width)) + 0.5) * width
        self.r_L = self.bend * np.sinh(self._y_L + width / 2)
        self._length = next_fast_len(2 * self._y_L.size, real=True)
        self._u_E = np.concatenate([[0.0], u_N, [1.0]])
        self._exponent_SF = self._log_characteristic(max(np.ptp(y_N), 1.0) / width)

        noise_K, ratio_K = (part.ravel() for part in np.meshgrid(NOISES, DIVERGED if not finite_N.all() else (1.0,)))
        self._settings = noise_K.size
        stray_NL = (FREAK + COLLAPSED * (y_N[:, None] > self._y_L)) / (self._y_L.size * width)
        unlikely_NK1 = np.where((r_N > 0)[:, None], ratio_K, FREAK)[..., None]  # of a sign that is not the curve's
        likelihood_NKL = np.where(
            finite_N[:, None, None],
            (1 - COLLAPSED - FREAK) * _student((y_N[:, None] - self._y_L)[:, None], noise_K[:, None] / BEND)
            + stray_NL[:, None],
            np.where((r_N > 0)[:, None, None] == (self._y_L > 0), 1.0, unlikely_NK1),
        )
        likelihood_NHL = np.tile(likelihood_NKL, (1, len(SHAPES), 1))
        before_NHL, after_NHL, log_H = self._pass_along(likelihood_NHL)
        log_H = log_H - np.log(np.tile(noise_K, len(SHAPES)))
        weight_H = np.exp(log_H - log_H.max())
        self._weight_H = weight_H / weight_H.sum()

        others_NHL = _normalise(before_NHL * after_NHL)
        predicted_NH = (others_NHL * likelihood_NHL).sum(2)
        strayed_NH = (others_NHL * stray_NL[:, None]).sum(2)
        slope_N = 1 / np.hypot(self.bend, known_N)  # dy/dr
        # p(i | others) = 1 / Σ w / p, because the weights w of the settings include observation i.
        self.density_N = slope_N / ((1 / predicted_NH) @ self._weight_H)
        self.stray_N = np.where(finite_N, (strayed_NH / predicted_NH) @ self._weight_H, 0.0)
        self.stray_density_N = slope_N * (strayed_NH @ self._weight_H)

    def distribution(self) -> tuple[Array, Array, Array]:
        """Return positions, and the probability that the root lies below each: once with, once without ramps.

        Within a gap the curve jumps anywhere, or it rises along the gap, from a < 0 to b > 0. Along a ramp, it has
        crossed 0 by the part t of the gap with the probability that a Beta(κ·t, κ·(1 − t)) variable exceeds
        −a / (b − a), where κ is STRAIGHTNESS.
        """
        products = (_normalise(f * b) for f, b in zip(self._forward, self._later, strict=True))
        level_EL = np.array([self._weight_H @ product_HL for product_HL in products])
        above_L = self._y_L > 0
        at_E = np.maximum.accumulate(level_EL[:, above_L].sum(1))
        mass_D, width_D = np.diff(at_E), np.diff(self._u_E)
        gaps = np.flatnonzero((mass_D > 0.01) & (width_D > 1e-9))
        a_D = np.sinh(_mean(self._y_L[~above_L], level_EL[:-1, ~above_L]))[gaps, None]
        b_D = np.sinh(_mean(self._y_L[above_L], level_EL[1:, above_L]))[gaps, None]
        part_I = np.arange(1, INTERIOR + 1) / (INTERIOR + 1)
        along_DI = 1 - betainc(STRAIGHTNESS * part_I, STRAIGHTNESS * (1 - part_I), -a_D / (b_D - a_D))
        jump_DI = np.broadcast_to(part_I, along_DI.shape)
        u_DI, *below = (
            start_E[:-1][gaps, None] + np.diff(start_E)[gaps, None] * share_DI
            for start_E, share_DI in (
                (self._u_E, jump_DI),
                (at_E, RAMP * along_DI + (1 - RAMP) * jump_DI),
                (at_E, jump_DI),
            )
        )
        u_G = np.concatenate([self._u_E, u_DI.ravel()])
        order_G = np.argsort(u_G, kind="stable")
        with_ramps_G, without_G = (np.concatenate([at_E, part.ravel()])[order_G] for part in below)
        return u_G[order_G], np.maximum.accumulate(with_ramps_G), np.maximum.accumulate(without_G)

    def below(self, u: float, r_R: Array) -> Array:
        """Return the probability that the curve at u lies below each of the residuals."""
        gap = int(np.clip(np.searchsorted(self._u_E, u, side="right") - 1, 0, self._u_E.size - 2))
        left_SL, right_SL = self._rises(np.array([u - self._u_E[gap], self._u_E[gap + 1] - u]))
        forward_HL = self._rise(self._forward[gap], left_SL)
        backward_HL = self._expect(self._backward[gap + 1], right_SL)
        below_L = np.cumsum(self._weight_H @ _normalise(forward_HL * backward_HL))
        return np.asarray(np.interp(r_R, self.r_L, below_L, left=0.0))

    def _pass_along(self, likelihood_NHL: Array) -> tuple[Array, Array, Array]:
        """Return the levels' distribution before each observation, the likelihood of all later ones, and log p(all)."""
        count, settings, levels = likelihood_NHL.shape
        rise_DSL = self._rises(np.diff(self._u_E))
        forward_HL, log_H = np.full((settings, levels), 1 / levels), np.zeros(settings)
        self._forward, before = [forward_HL], []
        for i in range(count + 1):
            forward_HL = self._rise(forward_HL, rise_DSL[i])
            if i < count:
                before.append(forward_HL)
                forward_HL = forward_HL * likelihood_NHL[i]
                log_H = log_H + np.log(forward_HL.sum(1))
                forward_HL = _normalise(forward_HL)
            self._forward.append(forward_HL)
        backward_HL = np.ones((settings, levels))
        self._later, self._backward = [backward_HL], [backward_HL]  # without and with the observation at the position
        for i in range(count, -1, -1):
            later_HL = self._expect(backward_HL, rise_DSL[i])
            backward_HL = _normalise(later_HL * likelihood_NHL[i - 1]) if i else later_HL
            self._later.insert(0, later_HL)
            self._backward.insert(0, backward_HL)
        return np.array(before), np.array(self._later[1:-1]), log_H

    def _log_characteristic(self, rise: float) -> NDArray[np.complex128]:
        """Return log((1 − p) / (1 − p·z)) · α at the Fourier frequencies z; ``rise``: expected over the range."""
        shape_S1 = np.array(SHAPES)[:, None]
        p_S1 = rise / (rise + shape_S1)
        z_F = np.exp(-2j * np.pi * np.arange(self._length // 2 + 1) / self._length)
        return np.asarray(shape_S1 * np.log((1 - p_S1) / (1 - p_S1 * z_F)))

    def _rises(self, width_D: Array) -> Array:
        """Return the probability of each rise over gaps of these widths, shape (D, S, L)."""
        width_D11 = np.maximum(width_D, 1e-9)[:, None, None]
        rise_DSL = irfft(np.exp(width_D11 * self._exponent_SF), self._length)[..., : self._y_L.size]
        return np.maximum(rise_DSL, 0.0)

    def _rise(self, forward_HL: Array, rise_SL: Array) -> Array:
        """Return the distribution of the levels after a rise; the highest level stands for all above it."""
        f_SKL, size = self._by_shape(forward_HL), self._y_L.size
        moved = irfft(rfft(f_SKL, self._length) * rfft(rise_SL[:, None], self._length), self._length)
        risen_SKL = np.maximum(moved[..., :size], 0.0)
        risen_SKL[..., -1] += np.maximum(f_SKL.sum(-1) - risen_SKL.sum(-1), 0.0)
        return risen_SKL.reshape(forward_HL.shape)

    def _expect(self, backward_HL: Array, rise_SL: Array) -> Array:
        """Return the expectation of ``backward_HL`` after a rise from each level: the adjoint of ``_rise``."""
        b_SKL, size = self._by_shape(backward_HL), self._y_L.size
        top = b_SKL[..., -1:]
        moved = irfft(rfft(b_SKL - top, self._length) * rfft(rise_SL[:, None], self._length).conj(), self._length)
        return np.maximum(moved[..., :size] + top, 0.0).reshape(backward_HL.shape)

    def _by_shape(self, values_HL: Array) -> Array:
        return values_HL.reshape(len(SHAPES), self._settings, values_HL.shape[-1])


def _student(distance: Array, scale: Array) -> Array:
    """Return the density of Student's t with four degrees of freedom."""
    return np.asarray(0.375 * (1 + np.square(distance / scale) / 4) ** -2.5 / scale)


def _normalise(weight_L: Array) -> Array:
    return np.asarray(weight_L / weight_L.sum(-1, keepdims=True))


def _mean(y_L: Array, weight_EL: Array) -> Array:
    """Return the mean of y under each row of weights, and of y itself under weights of 0."""
    least = 1e-300
    return np.asarray((weight_EL @ y_L + least * y_L.mean()) / (weight_EL.sum(1) + least))
