"""Measure the error of the λ that a dozen noisy trials find for a target loss: LossMatchSampler and its rivals.

The curves are synthetic (logistic, power law, flat then steep; noise of 1% and 5% of the range), or recorded from
trainings (``record_curves.py`` makes matching_curves.csv). Every rival gets the same curves, targets, noise and number
of trials. Parallel trials are proposed together, before any of them has a result. The result next to this file is made
by

    python tests/benchmarks/bench_matching.py > tests/benchmarks/matching.md

LossMatchSampler gets as noise the standard deviation of five draws, like that of a reference with five seeds. The
rivals need no noise. The error of a match is |f(λ̂) − target| without noise, over the curve's range.
"""

import argparse
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from tune_interpreg.search.matching.sampler import LossMatchSampler, best_match

CURVES = Path(__file__).with_name("matching_curves.csv")
LOW, HIGH = 1e-4, 10.0
SPACE: dict[str, BaseDistribution] = {"lambda": FloatDistribution(LOW, HIGH, log=True)}
REFERENCE_SEEDS = 5
Curve = Callable[[float], float]


@dataclass(frozen=True)
class Problem:
    """A curve f(u), u = log λ scaled to [0, 1], with its root and its noise."""

    curve: Curve
    root: float
    spread: Curve  # standard deviation of single trainings at u
    draws_N: np.ndarray  # their deviations from f, in units of ``spread``; a trial draws one of them
    seed: int

    @property
    def target(self) -> float:
        return self.curve(self.root)

    @property
    def span(self) -> float:
        return self.curve(1.0) - self.curve(0.0)

    def residual(self, u: float, rng: np.random.Generator) -> float:
        """Return the result of a trial at u: noisy loss − target."""
        return self.curve(u) + self.spread(u) * float(rng.choice(self.draws_N)) - self.target

    def floor(self) -> float:
        """Return the noise that a reference's seeds show at the root."""
        draws = np.random.default_rng((2, self.seed)).choice(self.draws_N, REFERENCE_SEEDS)
        return max(self.spread(self.root) * float(draws.std(ddof=1)), 1e-3 * abs(self.target))


@dataclass(frozen=True)
class Outcome:
    """The answer u, its 90% interval (NaN if a method has none), and the seconds of the slowest proposal."""

    u: float
    low: float = math.nan
    high: float = math.nan
    seconds: float = 0.0


# ------------------------------------------------------------------ problems
#: Rising curves f(u, centre).
FAMILIES: dict[str, Callable[[float, float], float]] = {
    "logistic": lambda u, centre: 2.25 / (1 + math.exp(-11.5 * (u - centre))),
    "power law": lambda u, centre: 10 ** (2 * (u - centre)),
    "flat then steep": lambda u, centre: 0.3 + 0.05 * u + 0.3 * math.log1p(math.exp(40 * (u - centre))),
}


def synthetic(family: str, relative: float, repeat: int) -> Problem:
    """Return a curve of the family with a target in the middle three fifths of its losses, and Gaussian noise."""
    rng = np.random.default_rng((list(FAMILIES).index(family), repeat))
    curve = partial(FAMILIES[family], centre=rng.uniform(0.35, 0.65))
    root = root_at(curve, rng.uniform(0.2, 0.8))
    spread = relative * (curve(1.0) - curve(0.0))
    draws_N = rng.standard_normal(1000)
    return Problem(curve, root, lambda u: spread, draws_N - draws_N.mean(), repeat)


def root_at(curve: Curve, part: float) -> float:
    """Return the u at which the curve has risen by this part of its range. Not u but the loss is drawn evenly."""
    target = curve(0.0) + part * (curve(1.0) - curve(0.0))
    return float(brentq(lambda u: curve(u) - target, 0.0, 1.0))


def recorded(file: Path, repeats: int) -> dict[str, list[Problem]]:
    """Return, by curve, problems with targets in the middle three fifths of its losses.

    A strength with fewer than two finite losses is left out, so a curve ends before its trainings diverge.
    """
    frame = pd.read_csv(file, float_precision="round_trip")
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

    roots = [root_at(curve, np.random.default_rng((9, repeat)).uniform(0.2, 0.8)) for repeat in range(repeats)]
    return [Problem(curve, root, spread, np.concatenate(draws), repeat) for repeat, root in enumerate(roots)]


# -------------------------------------------------------------------- rivals
def run_study(
    problem: Problem, sampler: optuna.samplers.BaseSampler, trials: int, workers: int
) -> tuple[optuna.Study, float]:
    """Run a study with ``workers`` trials at a time. Return it and the seconds of its slowest proposal."""
    study, rng, slowest = optuna.create_study(sampler=sampler), np.random.default_rng((1, problem.seed)), 0.0
    for first in range(0, trials, workers):
        batch = []
        for _ in range(min(workers, trials - first)):
            started = time.perf_counter()
            batch.append(study.ask(SPACE))
            slowest = max(slowest, time.perf_counter() - started)
        for trial in batch:
            residual = problem.residual(position(trial.params["lambda"]), rng)
            trial.set_user_attr("residual", residual)
            study.tell(trial, abs(residual))
    return study, slowest


def match_loss(problem: Problem, trials: int, workers: int, *, anchored: bool = False) -> Outcome:
    """Return the answer of LossMatchSampler."""
    anchor = problem.curve(-2.0) if anchored else None
    sampler = LossMatchSampler("lambda", problem.target, noise=problem.floor(), anchor=anchor, seed=problem.seed)
    study, slowest = run_study(problem, sampler, trials, workers)
    match = best_match(study)
    return Outcome(position(match.lambda_hat), position(match.low), position(match.high), slowest)


def run_optuna(
    sampler: Callable[..., optuna.samplers.BaseSampler], problem: Problem, trials: int, workers: int, **options: Any
) -> Outcome:
    """Return the trial of a sampler of Optuna with the smallest |residual|."""
    study, slowest = run_study(problem, sampler(seed=problem.seed, **options), trials, workers)
    return Outcome(position(study.best_params["lambda"]), seconds=slowest)


def grid(problem: Problem, trials: int, workers: int) -> Outcome:
    """Return the step with the smallest |residual| among equal steps in log λ."""
    rng = np.random.default_rng((1, problem.seed))
    return Outcome(min(np.linspace(0, 1, trials).tolist(), key=lambda u: abs(problem.residual(u, rng))))


def section(problem: Problem, trials: int, workers: int) -> Outcome:
    """Keep the part with the clearest change of sign, of workers + 1 parts per round; return the last chord's zero."""
    rng, low, high = np.random.default_rng((1, problem.seed)), (0.0, -math.inf), (1.0, math.inf)
    for first in range(0, trials, workers):
        u_W = np.linspace(low[0], high[0], min(workers, trials - first) + 2)[1:-1]
        points = [low, *((u, problem.residual(u, rng)) for u in u_W.tolist()), high]
        r_P = np.array([r for _, r in points])
        cut = 1 + int(np.argmin([(r_P[:cut] > 0).sum() + (r_P[cut:] < 0).sum() for cut in range(1, r_P.size)]))
        low, high = points[cut - 1], points[cut]
    crossed = low[1] < 0 < high[1] and math.isfinite(high[1] - low[1])
    part = -low[1] / (high[1] - low[1]) if crossed else 0.5
    return Outcome(low[0] + part * (high[0] - low[0]))


RIVALS: dict[str, Callable[[Problem, int, int], Outcome]] = {
    "LossMatchSampler": match_loss,
    "LossMatchSampler, anchored": partial(match_loss, anchored=True),
    "TPE": partial(run_optuna, TPESampler),
    "TPE, 4 start-up trials": partial(run_optuna, TPESampler, n_startup_trials=4),
    "GPSampler on abs(r), 4 start-up trials": partial(run_optuna, GPSampler, n_startup_trials=4),
    "random": partial(run_optuna, RandomSampler),
    "parallel section search": section,
    "grid": grid,
}


# --------------------------------------------------------------------- table
def position(value: float) -> float:
    return math.log(value / LOW) / math.log(HIGH / LOW)


def find_error(problem: Problem, outcome: Outcome) -> float:
    """Return |f(û) − target| over the curve's range."""
    return abs(problem.curve(outcome.u) - problem.target) / problem.span


def cell(problems: Sequence[Problem], rival: Callable[[Problem, int, int], Outcome], trials: int, workers: int) -> str:
    """Return the median error; with an interval also its coverage and the seconds of the slowest proposal."""
    results = [(problem, rival(problem, trials, workers)) for problem in problems]
    error = np.median([find_error(problem, outcome) for problem, outcome in results])
    if math.isnan(results[0][1].low):
        return f"{error:.4f}"
    # Logarithm and exponential move an end of the range by a rounding error.
    covered = np.mean([outcome.low - 1e-9 <= problem.root <= outcome.high + 1e-9 for problem, outcome in results])
    return f"{error:.4f} ({100 * covered:.0f}%, {max(outcome.seconds for _, outcome in results):.2f} s)"


def table(repeats: int, trials: int, workers: int) -> Iterator[str]:
    """Yield the lines of a Markdown table: rivals by settings."""
    settings = {
        f"{family}, {relative:.0%}": [synthetic(family, relative, i) for i in range(repeats)]
        for family in FAMILIES
        for relative in (0.01, 0.05)
    }
    settings |= recorded(CURVES, repeats)
    yield f"| method | {' | '.join(settings)} |"
    yield "|---" * (len(settings) + 1) + "|"
    for name, rival in RIVALS.items():
        print(f"{workers} workers: {name}", file=sys.stderr, flush=True)
        yield f"| {name} | " + " | ".join(cell(p, rival, trials, workers) for p in settings.values()) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(
        f"# Matching a loss\n\n{date.today()}, Python {platform.python_version()}, optuna {optuna.__version__}, "
        f"{os.cpu_count()} cores. Median |f(λ̂) - target| over the curve's range after {options.trials} trials, "
        f"{options.repeats} repeats; in brackets the share of repeats with the root in the 90% interval, and the wall "
        "time of the slowest proposal."
    )
    for workers in options.workers:
        print(f"\n## {workers} at a time\n", flush=True)
        for line in table(options.repeats, options.trials, workers):
            print(line, flush=True)


if __name__ == "__main__":
    main()
