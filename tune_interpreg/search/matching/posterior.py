"""The posterior of the root of a noisy rising curve: a mixture of smooth models and of one that may jump.

Shapes: M models, N observations, G positions, R residuals, W places. A position u is log λ, scaled so that the searched
range is [0, 1].
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from tune_interpreg.search.matching.smooth import SmoothModel
from tune_interpreg.search.matching.steps import Array, StepModel

BRACKET = 0.005  # mass on either side of the step model's bracket, which the smooth models must respect
DOUBT = 0.4  # part of a proposal's distribution that takes no curve to be smooth
LEAST = 0.05  # least weight of the step model: a few residuals cannot prove that a curve is smooth
OUTSIDE = 0.1  # prior odds of a root beyond an end of the range, relative to one inside
WINDOWS = (2, 4)  # observations on either side of the root that a local smooth model takes
SATURATED = 1e4  # times the larger of 30 noise floors and the median size; a larger residual counts as its sign only
FLAT_ENDS = (3.0, -3.0)  # powers of the smooth models of an interval's second mixture
COARSE = 101  # positions over the range of a smooth model
FINE = 60  # positions over the part where it sees the root


class RootPosterior:
    """The posterior of the root of a rising curve r(u), observed with noise.

    The models are the step model, a smooth model of all observations, and smooth models of the few observations around
    the root, because a cliff is smooth when looked at closely. Each predicts every residual from all others; where a
    local model looks away, the step model predicts. A model's weight is the product of these densities.

    The root of a smooth model counts within the central 99% of the step model's root: signs decide where the root may
    be, smoothness where it is in there.

    Args:
        u_N: positions of the observations, N ≥ 1.
        r_N: residuals, value − target. +inf is a diverged training.
        noise: smallest standard deviation of the residuals, > 0.
        target: the value to reach, if known. It sets the scale on which values grow.
    """

    def __init__(self, u_N: Array, r_N: Array, *, noise: float, target: float | None = None) -> None:
        order_N = np.lexsort((r_N, u_N))
        u_N, r_N = np.clip(u_N[order_N], 0.0, 1.0), _reduce_to_signs(r_N[order_N], noise)
        self._steps = StepModel(u_N, r_N, noise)
        self._step_u, *self._step_below = self._steps.distribution()
        root = float(np.interp(0.5, self._step_below[0], self._step_u))
        self._fit = partial(_fit_smooth, u_N, r_N, noise, self._steps, target)
        u_F = u_N[np.isfinite(r_N)]
        self._whole = (0, u_F.size) if u_F.size >= 2 else None
        self._local = [self._fit(span) for span in _spans_around(root, u_F)]
        self._smooth, self._weights, self._u_G, (ramp_MG, jump_MG) = self._mix((1.0,))
        #: The probability that the root lies below each position, if the curve may rise along a gap.
        self._below_G = _expect_inside(self._weights @ ramp_MG)
        #: The same, if it jumps somewhere in a gap.
        self._jump_G = _expect_inside(self._weights @ jump_MG)
        #: The same, for proposals.
        self._search_G = (1 - DOUBT) * self._jump_G + DOUBT * _expect_inside(jump_MG[0])

    def median(self) -> float:
        """Return the median of the root's position; 0 or 1 if it lies beyond the range."""
        return float(np.interp(0.5, self._below_G, self._u_G))

    def interval(self) -> tuple[float, float]:
        """Return bounds of the root's position: the central 90% by two mixtures.

        Neither takes credit for a straight rise within a gap. The second does not take the slope at the root from the
        rest of the curve: its smooth models of all observations are flat at an end of the range.
        """
        _, weights, u_G, (_, jump_MG) = self._mix(FLAT_ENDS)
        straight = np.interp([0.05, 0.95], self._jump_G, self._u_G)
        flat = np.interp([0.05, 0.95], _expect_inside(weights @ jump_MG), u_G)
        bounds = [self.median(), *straight.tolist(), *flat.tolist()]
        return min(bounds), max(bounds)

    def residuals(self, u: float, shares: Sequence[float]) -> Array:
        """Return quantiles of the curve at u."""
        r_R = self._steps.r_L
        r_R = np.unique(np.concatenate([r_R, np.linspace(-1, 1, 201) * self._steps.bend]))
        below = [self._steps.below(u, r_R), *(model.below(u, r_R) for model in self._smooth)]
        return np.asarray(np.interp(shares, self._weights @ np.array(below), r_R))

    def propose(self, running_N: Array, parallel: int, jitter: float) -> float:
        """Return the position of the next trial: where it divides the root's probability inside the range best.

        Proposals take the curve to jump within a gap, so that a bracket is divided evenly.

        Args:
            running_N: positions of the running trials.
            parallel, jitter: as in ``choose_share``.
        """
        first, last = self._search_G[0], self._search_G[-1]
        inside = max(last - first, 1e-300)
        share = choose_share((np.interp(running_N, self._u_G, self._search_G) - first) / inside, parallel, jitter)
        return float(np.interp(first + share * inside, self._search_G, self._u_G))

    def _mix(self, powers: Sequence[float]) -> tuple[list[SmoothModel], Array, Array, tuple[Array, Array]]:
        """Return smooth models, the weights of all models, positions, and the probability of a root below each.

        The probabilities have the shape (M, G), the step model first: once with, once without its ramps. ``powers`` are
        those of the smooth models of all observations, as in ``SmoothModel``.
        """
        whole = [self._fit(self._whole, power, 1 / len(powers)) for power in powers if self._whole]
        fits = [*whole, *self._local]
        u_G = np.unique(np.concatenate([self._step_u, *(_positions(model) for model, _ in fits)]))
        ramp_G, jump_G = (np.interp(u_G, self._step_u, below) for below in self._step_below)
        smooth, log_weights = [], [0.0]
        for model, log_weight in fits:
            bounded_G, inside = _within_bracket(model.above(u_G), ramp_G)
            smooth.append(bounded_G)
            log_weights.append(log_weight + np.log(max(inside, 1e-300)))
        weights = np.exp(np.array(log_weights) - max(log_weights))
        weights = (1 - LEAST) * weights / weights.sum()
        weights[0] += LEAST
        return [model for model, _ in fits], weights, u_G, (np.array([ramp_G, *smooth]), np.array([jump_G, *smooth]))


def choose_share(running_N: Array, parallel: int, jitter: float) -> float:
    """Return the share of the root's probability below the next trial.

    ``parallel`` trials divide the probability into equal parts. The next one takes the place that is farthest from the
    running trials, first the one in the middle.

    Args:
        running_N: share below each running trial.
        parallel: number of trials that run at the same time, ≥ 1.
        jitter: in [−1, 1]; moves the place by up to a fiftieth of a part. Equal trials of a store run only once, so a
            strength that is tried again must differ by a hair.
    """
    share_W = np.arange(1, parallel + 1) / (parallel + 1)
    share_W = share_W[np.argsort(np.round(np.abs(share_W - 0.5), 9), kind="stable")]
    if not running_N.size:
        share = float(share_W[0])
    else:
        free_W = np.abs(share_W[:, None] - running_N).min(1)
        share = float(share_W[np.round(free_W, 3).argmax()])
        if free_W.max() < 0.5 / (parallel + 1):  # more trials are running than ``parallel``
            edges = np.concatenate([[0.0], np.sort(running_N), [1.0]])
            widest = int(np.diff(edges).argmax())
            share = float(edges[widest] + edges[widest + 1]) / 2
    return share + 0.02 * jitter / (parallel + 1)


def _reduce_to_signs(r_N: Array, noise: float) -> Array:
    """Return the residuals with those above SATURATED as ±inf: only their signs count."""
    sizes_N = np.abs(r_N[np.isfinite(r_N)])
    usual = max(30 * noise, float(np.median(sizes_N)) if sizes_N.size else 0.0)
    return np.where(np.abs(r_N) > SATURATED * usual, np.copysign(np.inf, r_N), r_N)


def _spans_around(root: float, u_N: Array) -> list[tuple[int, int]]:
    """Return the spans [first, last) of the few observations around ``root``, unless it is all, or one place."""
    middle = int(np.searchsorted(u_N, root))
    spans = dict.fromkeys((max(middle - k, 0), min(middle + k, u_N.size)) for k in WINDOWS)
    return [
        (first, last) for first, last in spans if 2 <= last - first < u_N.size and u_N[last - 1] - u_N[first] >= 1e-6
    ]


def _fit_smooth(
    u_N: Array,
    r_N: Array,
    noise: float,
    steps: StepModel,
    target: float | None,
    span: tuple[int, int],
    power: float = 1.0,
    prior: float = 1.0,
) -> tuple[SmoothModel, float]:
    """Return a smooth model of a span of the finite residuals, and the logarithm of its weight.

    The weight is the prior, times the density of its residuals, each predicted from the others, relative to the step
    model's.
    """
    rows = np.flatnonzero(np.isfinite(r_N))[slice(*span)]
    is_whole = rows.size == np.isfinite(r_N).sum()
    model = SmoothModel(
        u_N[rows],
        r_N[rows],
        noise,
        bounds=(0.0, 1.0) if is_whole else (float(u_N[rows[0]]), float(u_N[rows[-1]])),
        power=power,
        stray_N=steps.stray_N[rows],
        stray_density_N=steps.stray_density_N[rows],
        target=target,
    )
    return model, math.log(prior) + float((np.log(model.density_N) - np.log(steps.density_N[rows])).sum())


def _positions(model: SmoothModel) -> Array:
    """Return positions over the model's range, and more of them where it sees the root."""
    coarse_G = np.linspace(*model.bounds, COARSE)
    first, last = np.searchsorted(model.above(coarse_G), [1e-3, 1 - 1e-3])
    return np.concatenate([coarse_G, np.linspace(coarse_G[max(first - 1, 0)], coarse_G[min(last, COARSE - 1)], FINE)])


def _within_bracket(below_G: Array, step_G: Array) -> tuple[Array, float]:
    """Return a model's distribution of the root, given that it lies in the bracket, and the probability of that."""
    low_G, high_G = step_G > BRACKET, step_G >= 1 - BRACKET
    start = below_G[low_G.argmax()] if low_G.any() and not low_G[0] else 0.0
    end = below_G[high_G.argmax()] if high_G.any() else 1.0
    inside = float(end - start)
    if inside <= 1e-9:
        return step_G, 0.0
    bounded_G = np.clip((below_G - start) / inside, 0.0, 1.0)
    return np.where(high_G, 1.0, np.where(low_G, bounded_G, 0.0)), inside


def _expect_inside(below_G: Array) -> Array:
    """Return the distribution with less probability beyond the range: a range is given because the root is expected."""
    low, high = OUTSIDE * below_G[0], OUTSIDE * (1 - below_G[-1])
    inside_G = below_G - below_G[0]
    return np.asarray((low + inside_G) / (low + inside_G[-1] + high))
