"""Curves on which rivals look for the λ that matches a target: what trainings may do, one family per fault.

A position u is log λ, scaled so that the searched range is [0, 1]: five decades. ``FAMILIES`` were looked at while the
sampler was built. ``HELD_OUT`` were not, but for two (see matching.md).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

CURVES = Path(__file__).with_name("matching_curves.csv")
REFERENCE_SEEDS = 5
DECADES = 5
Curve = Callable[[float], float]
Make = Callable[[np.random.Generator], Curve]


@dataclass(frozen=True)
class Family:
    """A kind of curve and of noise.

    Attributes:
        make: draws a curve f(u).
        parts: range of the target's part of the curve's rise; outside [0, 1] no λ reaches it.
        smooth: whether the curve bends over decades, with Gaussian noise.
        deviation: standard deviation of a training at u, relative to the family's noise.
        heavy: whether deviations follow Student's t with two degrees of freedom.
        collapse: share of trainings that learn nothing, with a loss of 1.03 times the curve's highest.
        diverge: draws the u above which half of the trainings diverge.
    """

    make: Make
    parts: tuple[float, float] = (0.2, 0.8)
    smooth: bool = False
    deviation: Curve = lambda u: 1.0
    heavy: bool = False
    collapse: float = 0.0
    diverge: Callable[[np.random.Generator], float] = lambda rng: math.inf


@dataclass(frozen=True)
class Problem:
    """A curve with its root and its noise.

    Attributes:
        curve: f(u).
        root: position of the target; below 0 or above 1 if no λ in the range reaches it.
        target: f(root).
        span: f(1) − f(0), by which errors are divided.
        spread: standard deviation of single trainings at u.
        draws_N: their deviations from f in units of ``spread``. A trial draws one of them.
    """

    curve: Curve
    root: float
    target: float
    span: float
    spread: Curve
    draws_N: np.ndarray
    seed: int
    collapse: float = 0.0
    diverge: float = math.inf

    def residual(self, u: float, rng: np.random.Generator) -> float:
        """Return the result of a trial at u: noisy loss − target; +inf if it diverged."""
        lucky, survives, draw = rng.random(), rng.random(), float(rng.choice(self.draws_N))
        if u > self.diverge and survives < 0.5:
            return math.inf
        if lucky < self.collapse:
            top = self.curve(1.0) + 0.03 * self.span
            return top - self.target + 1e-3 * self.span * draw
        return self.curve(u) + self.spread(u) * draw - self.target

    def floor(self) -> float:
        """Return the noise that a reference's seeds show at the target."""
        draws = np.random.default_rng((2, self.seed)).choice(self.draws_N, REFERENCE_SEEDS)
        return max(self.spread(min(max(self.root, 0.0), 1.0)) * float(draws.std(ddof=1)), 1e-3 * abs(self.target))


# ------------------------------------------------------------------- curves
def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-min(max(x, -700.0), 700.0)))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _linear(rng: np.random.Generator) -> Curve:
    start = rng.uniform(0.1, 1.0)
    return lambda u: start + u


def _logistic(rng: np.random.Generator) -> Curve:
    centre = rng.uniform(0.35, 0.65)
    return lambda u: 2.25 * _sigmoid(11.5 * (u - centre))


def _power(rng: np.random.Generator) -> Curve:
    centre = rng.uniform(0.35, 0.65)
    return lambda u: 10 ** (2 * (u - centre))


def _late_knee(rng: np.random.Generator) -> Curve:
    knee = rng.uniform(0.5, 0.85)
    return lambda u: 0.3 + 0.05 * u + 0.3 * _softplus(40 * (u - knee))


def _staircase(rng: np.random.Generator) -> Curve:
    count = int(rng.integers(4, 8))
    places, heights = np.sort(rng.uniform(0.05, 0.95, count)), rng.uniform(0.3, 1.0, count)
    return lambda u: 0.3 + 0.05 * u + float(heights @ np.clip((u - places) / 0.004, 0, 1)) / heights.sum()


def _cliff(rng: np.random.Generator) -> Curve:
    """Rise by 0.1 over the range, and by 1 within a tenth of a decade."""
    place = rng.uniform(0.15, 0.85)
    return lambda u: 0.3 + 0.1 * u + _sigmoid((u - place) * DECADES / 0.1 * 2 * math.log(9))


def _dip(rng: np.random.Generator) -> Curve:
    place, depth = rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.3)
    return lambda u: 0.6 + u - depth * math.exp(-((u - place) ** 2) / (2 * 0.06**2))


#: Families that were looked at.
FAMILIES: dict[str, Family] = {
    "linear": Family(_linear, smooth=True),
    "logistic": Family(_logistic, smooth=True),
    "power law": Family(_power, smooth=True),
    "late knee": Family(_late_knee, smooth=True),
    "staircase": Family(_staircase),
    "cliff": Family(_cliff),
    "dip at small λ": Family(_dip, parts=(0.3, 0.8)),
    "noise grows with λ": Family(_logistic, deviation=lambda u: 10 ** (2 * u - 1)),
    "heavy tails": Family(_logistic, heavy=True),
    "near the lower asymptote": Family(_logistic, parts=(0.02, 0.06)),
    "near the upper asymptote": Family(_logistic, parts=(0.94, 0.98)),
    "15% collapse": Family(_logistic, collapse=0.15),
    "half diverge": Family(_logistic, diverge=lambda rng: rng.uniform(0.3, 0.6)),
    "above the range": Family(_logistic, parts=(1.1, 1.5)),
    "below the range": Family(_late_knee, parts=(-0.3, -0.1)),
}


# ----------------------------------------------------------------- held out
def _gompertz(rng: np.random.Generator) -> Curve:
    centre, rate = rng.uniform(0.3, 0.6), rng.uniform(5, 12)
    return lambda u: 0.2 + 2 * math.exp(-math.exp(-rate * (u - centre)))


def _saturating(rng: np.random.Generator) -> Curve:
    rate = rng.uniform(2, 8)
    return lambda u: 0.4 + 1 - math.exp(-rate * u)


def _shelf(rng: np.random.Generator) -> Curve:
    """Rise twice, with a shelf between the two."""
    first, second = rng.uniform(0.1, 0.35), rng.uniform(0.6, 0.9)
    return lambda u: 0.3 + 0.1 * u + _sigmoid(25 * (u - first)) + _sigmoid(40 * (u - second))


def _random_walk(rng: np.random.Generator) -> Curve:
    """Add up 25 increments of Gamma(0.5), linear in between."""
    losses = 0.3 + np.concatenate([[0.0], np.cumsum(rng.gamma(0.5, size=25))])
    grid = np.linspace(0, 1, 26)
    return lambda u: float(np.interp(u, grid, losses))


def _cliff_on_power(rng: np.random.Generator) -> Curve:
    """Rise like a power, then collapse to a loss of ln 10 within a fiftieth of a decade."""
    place = rng.uniform(0.4, 0.9)
    return lambda u: (
        min(0.2 + 10 ** (1.5 * (u - 0.9)), 2.3)
        + (2.1 - 10 ** (1.5 * (place - 0.9))) * min(max((u - place) * 250, 0.0), 1.0)
    )


HELD_OUT: dict[str, Family] = {
    "Gompertz": Family(_gompertz, smooth=True),
    "saturating": Family(_saturating, smooth=True),
    "shelf": Family(_shelf),
    "random walk": Family(_random_walk),
    "cliff on a power law": Family(_cliff_on_power),
    "cliff, 8% collapse": Family(_cliff, collapse=0.08),
    "staircase, heavy tails": Family(_staircase, heavy=True),
    "random walk, diverging": Family(_random_walk, diverge=lambda rng: rng.uniform(0.5, 0.9)),
}


def draw(family: Family, relative: float, repeat: int, stream: int = 0) -> Problem:
    """Return a problem of the family with a noise of ``relative`` times the curve's rise.

    A target is a training loss, so losses are drawn: uniformly from the family's parts of the rise.
    """
    rng = np.random.default_rng((stream, repeat))
    curve = family.make(rng)
    low, high = curve(0.0), curve(1.0)
    target = low + rng.uniform(*family.parts) * (high - low)
    # The last crossing: curves that dip rise through the target once behind the dip.
    root = -1.0 if target <= low else 2.0 if target >= high else float(brentq(lambda u: curve(u) - target, 0.0, 1.0))
    draws_N = rng.standard_t(2, 1000) if family.heavy else rng.standard_normal(1000)
    draws_N -= np.median(draws_N) if family.heavy else draws_N.mean()
    spread = relative * (high - low)

    def deviation(u: float) -> float:
        return spread * family.deviation(u)

    diverge = family.diverge(rng)
    return Problem(curve, root, target, high - low, deviation, draws_N, repeat, family.collapse, diverge)


# ----------------------------------------------------------------- recorded
def recorded(repeats: int, file: Path = CURVES) -> dict[str, list[Problem]]:
    """Return, by curve, problems with targets in the middle three fifths of its losses.

    A strength with fewer than two finite losses is left out, so a curve ends before its trainings diverge.
    """
    frame = pd.read_csv(file)
    finite = frame[np.isfinite(frame["loss"])]
    return {str(name): _interpolate(rows, repeats) for name, rows in finite.groupby("curve", sort=False)}


def _interpolate(rows: pd.DataFrame, repeats: int) -> list[Problem]:
    """Return a rising PCHIP curve through the seeds' means, with the seeds' spread and deviations as noise."""
    groups = {strength: seeds.to_numpy() for strength, seeds in rows.groupby("strength")["loss"] if len(seeds) > 1}
    strength_N = np.array(list(groups))
    u_N = np.log(strength_N / strength_N[0]) / math.log(strength_N[-1] / strength_N[0])
    means = PchipInterpolator(u_N, np.maximum.accumulate([seeds.mean() for seeds in groups.values()]))
    # Not pooled: the noise of strong penalties is orders of magnitude larger than that of weak penalties.
    sd_N = np.maximum([seeds.std(ddof=1) for seeds in groups.values()], 1e-9)
    # Deviations from a mean of n values are too small by √((n − 1) / n).
    pairs = zip(groups.values(), sd_N, strict=True)
    draws = [(seeds - seeds.mean()) / sd * math.sqrt(len(seeds) / (len(seeds) - 1)) for seeds, sd in pairs]

    def curve(u: float) -> float:
        return float(means(min(max(u, 0.0), 1.0)))

    def spread(u: float) -> float:
        return math.exp(float(np.interp(u, u_N, np.log(sd_N))))

    span = curve(1.0) - curve(0.0)
    problems = []
    for repeat in range(repeats):
        target = curve(0.0) + np.random.default_rng((9, repeat)).uniform(0.2, 0.8) * span
        root = float(brentq(lambda u, target=target: curve(u) - target, 0.0, 1.0))
        problems.append(Problem(curve, root, target, span, spread, np.concatenate(draws), repeat))
    return problems
