"""Measure the error of the λ that a dozen noisy trials find for a target: LossMatchSampler and its rivals.

Every rival gets the same curves, targets, noise and number of trials (``matching_families.py``, and curves that
``record_curves.py`` recorded from trainings). Parallel trials are proposed together, before any of them has a result.
The page next to this file is made by

    python tests/benchmarks/bench_matching.py > tests/benchmarks/matching.md

LossMatchSampler and the section search get as noise the standard deviation of five draws, like that of a reference with
five seeds.
"""

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import optuna
from matching_families import DECADES, FAMILIES, HELD_OUT, Family, Problem, draw, recorded
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler

from tune_interpreg.search.matching.sampler import LossMatchSampler, best_match

LOW, HIGH = 1e-4, 1e-4 * 10**DECADES
SPACE: dict[str, BaseDistribution] = {"lambda": FloatDistribution(LOW, HIGH, log=True)}
STREAM = 1000  # first stream of the problems' draws; the sampler was built on others
TOLERANCES = {"one standard error": 1 / math.sqrt(5), "one standard deviation": 1.0}  # of the reference's five seeds


@dataclass(frozen=True)
class Outcome:
    """The answer of a rival.

    Attributes:
        u: position of the answer.
        low, high: its 90% interval; NaN if the rival has none.
        feasible: whether the rival says that the range holds the root.
        used: by tolerance, the number of trials until the rival says that it is within it; None: never.
        stopped: by tolerance, the position that it then answers.
    """

    u: float
    low: float = math.nan
    high: float = math.nan
    feasible: bool = True
    used: Mapping[str, int | None] | None = None
    stopped: Mapping[str, float] | None = None


# -------------------------------------------------------------------- rivals
def match_loss(problem: Problem, trials: int, workers: int) -> Outcome:
    """Return the answer of LossMatchSampler after all trials, and when it knew it within a tolerance."""
    noise = problem.floor()
    sampler = LossMatchSampler("lambda", problem.target, noise=noise, parallel=min(workers, trials), seed=problem.seed)
    study, rng = optuna.create_study(sampler=sampler), np.random.default_rng((1, problem.seed))
    used: dict[str, int | None] = dict.fromkeys(TOLERANCES)
    stopped: dict[str, float] = {}
    for first in range(0, trials, workers):
        _run_batch(study, problem, min(workers, trials - first), rng)
        match = best_match(study)
        for name, part in TOLERANCES.items():
            if used[name] is None and match.is_within(part * noise):
                used[name], stopped[name] = len(study.trials), position(match.lambda_hat)
    ends = (position(match.lambda_hat), position(match.low), position(match.high))
    return Outcome(*ends, match.feasible, used, stopped)


def search_tpe(problem: Problem, trials: int, workers: int) -> Outcome:
    """Return the trial of Optuna's TPE with the smallest |residual|."""
    study = optuna.create_study(sampler=TPESampler(seed=problem.seed))
    rng = np.random.default_rng((1, problem.seed))
    for first in range(0, trials, workers):
        _run_batch(study, problem, min(workers, trials - first), rng)
    return Outcome(position(study.best_params["lambda"]))


def _run_batch(study: optuna.Study, problem: Problem, count: int, rng: np.random.Generator) -> None:
    batch = [study.ask(SPACE) for _ in range(count)]
    for trial in batch:
        residual = problem.residual(position(trial.params["lambda"]), rng)
        if math.isfinite(residual):
            trial.set_user_attr("residual", residual)
        else:
            trial.set_user_attr("sign", 1)
        study.tell(trial, min(abs(residual), 1e9))


def search_sections(problem: Problem, trials: int, workers: int) -> Outcome:
    """Divide the bracket into workers + 1 equal parts per round; return the zero of its chord.

    The bracket is the gap that contradicts the fewest signs of all trials. When it is narrower than a ten-thousandth of
    the range, or when both ends lie within two noise floors of the target, its ends are tried again, and averaged.
    """
    rng, noise = np.random.default_rng((1, problem.seed)), problem.floor()
    points = [(0.0, -math.inf), (1.0, math.inf)]
    for first in range(0, trials, workers):
        (low, r_low), (high, r_high) = _find_bracket(points)
        count = min(workers, trials - first)
        if high - low < 1e-4 or max(abs(r_low), abs(r_high)) < 2 * noise:
            tried = [(low, high)[i % 2] for i in range(count)]
        else:
            tried = np.linspace(low, high, count + 2)[1:-1].tolist()
        points += [(u, problem.residual(u, rng)) for u in tried]
    low, high = (u for u, _ in _find_bracket(points))
    a, b = (_mean_residual(points, u) for u in (low, high))
    part = -a / (b - a) if a < 0 < b and math.isfinite(b - a) else 0.5
    return Outcome(low + part * (high - low))


def _find_bracket(points: list[tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    points.sort()
    r_P = np.array([r for _, r in points])
    wrong = [(r_P[:cut] > 0).sum() + (r_P[cut:] < 0).sum() for cut in range(1, r_P.size)]
    cut = 1 + int(np.argmin(wrong))
    return points[cut - 1], points[cut]


def _mean_residual(points: list[tuple[float, float]], u: float) -> float:
    finite = [r for other, r in points if other == u and math.isfinite(r)]
    return float(np.mean(finite)) if finite else math.nan


RIVALS: dict[str, Callable[[Problem, int, int], Outcome]] = {
    "ours": match_loss,
    "section": search_sections,
    "TPE": search_tpe,
}


# --------------------------------------------------------------------- table
def position(value: float) -> float:
    return math.log(value / LOW) / math.log(HIGH / LOW)


def find_error(problem: Problem, u: float) -> float:
    """Return |f(u) − target| over the curve's rise."""
    return abs(problem.curve(u) - problem.target) / problem.span


def covers(problem: Problem, outcome: Outcome) -> bool:
    # Logarithm and exponential move an end of the range by a rounding error.
    return outcome.low - 1e-9 <= problem.root <= outcome.high + 1e-9


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the median, from 200 bootstrap samples."""
    rng = np.random.default_rng(0)
    return float(np.median(rng.choice(np.asarray(values), (200, len(values))), axis=1).std())


def inside_row(name: str, problems: Sequence[Problem], smooth: float | None, trials: int, workers: int) -> str:
    """Return the table's line of a family with the root inside. ``smooth``: the goal against TPE, if there is one."""
    results = {rival: [search(problem, trials, workers) for problem in problems] for rival, search in RIVALS.items()}
    answers = {rival: [outcome.u for outcome in outcomes] for rival, outcomes in results.items()}
    loss = {r: [find_error(p, u) for p, u in zip(problems, us, strict=True)] for r, us in answers.items()}
    decades = {
        rival: [DECADES * abs(p.root - u) for p, u in zip(problems, us, strict=True)] for rival, us in answers.items()
    }
    medians = {rival: float(np.median(errors)) for rival, errors in loss.items()}
    tails = {rival: float(np.quantile(errors, 0.9)) for rival, errors in loss.items()}
    ours = results["ours"]
    coverage = 100 * float(np.mean([covers(p, outcome) for p, outcome in zip(problems, ours, strict=True)]))
    slack = math.hypot(standard_error(loss["ours"]), standard_error(loss["section"]))
    missed = [
        *(["median"] if medians["ours"] > medians["section"] + slack else []),
        *(["p90"] if tails["ours"] > 1.5 * tails["section"] else []),
        *(["coverage"] if not 85 <= coverage <= 97 else []),
        *(["TPE"] if smooth is not None and medians["ours"] > smooth * medians["TPE"] else []),
    ]
    cells = [
        f"{medians['ours']:.4f}, {medians['section']:.4f}, {medians['TPE']:.4f}",
        f"{tails['ours']:.3f}, {tails['section']:.3f}, {tails['TPE']:.3f}",
        ", ".join(f"{np.median(decades[rival]):.3f}" for rival in RIVALS),
        f"{coverage:.0f}%",
        *(_stops(problems, ours, tolerance, trials) for tolerance in TOLERANCES),
        "all" if not missed else f"not {', '.join(missed)}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _stops(problems: Sequence[Problem], outcomes: Sequence[Outcome], tolerance: str, trials: int) -> str:
    """Return the mean number of trials, and how many answers within the tolerance are right."""
    used, right, said = [], 0, 0
    for problem, outcome in zip(problems, outcomes, strict=True):
        assert outcome.used is not None
        assert outcome.stopped is not None
        count = outcome.used[tolerance]
        used.append(trials if count is None else count)
        if count is not None:
            said += 1
            limit = TOLERANCES[tolerance] * problem.floor()
            right += abs(problem.curve(outcome.stopped[tolerance]) - problem.target) <= limit
    return f"{np.mean(used):.1f}" + (f", {right} of {said}" if said else "")


def outside_row(name: str, problems: Sequence[Problem], trials: int, workers: int) -> str:
    """Return the line of a family with the root outside: how often the answer says so, at the right end."""
    outcomes = [match_loss(problem, trials, workers) for problem in problems]
    right = [
        not outcome.feasible and (outcome.u > 0.5) == (problem.root > 0.5)
        for problem, outcome in zip(problems, outcomes, strict=True)
    ]
    return f"| {name} | {sum(right)} of {len(right)} |"


def make_settings(families: Mapping[str, Family], repeats: int) -> Iterator[tuple[str, Family, float, list[Problem]]]:
    """Yield name, family, noise and problems of each setting."""
    streams = {name: STREAM + number for number, name in enumerate([*FAMILIES, *HELD_OUT])}
    for name, family in families.items():
        for relative in (0.01, 0.05):
            problems = [draw(family, relative, repeat, streams[name]) for repeat in range(repeats)]
            yield f"{name}, {relative:.0%}", family, relative, problems


def print_tables(repeats: int, trials: int, workers: int) -> None:
    """Print the tables of a number of workers."""
    head = "| family, noise | median error | 90th percentile | median, decades | coverage | "
    head += "trials, right within one standard error | trials, right within one standard deviation | goals met |"
    outside = []
    for title, families in (("Families that were looked at", FAMILIES), ("Held out", HELD_OUT)):
        print(f"\n### {title}\n\n{head}\n{'|---' * 8}|", flush=True)
        for name, family, relative, problems in make_settings(families, repeats):
            print(f"{workers} workers: {name}", file=sys.stderr, flush=True)
            if not 0 < problems[0].root < 1:
                outside.append(outside_row(name, problems, trials, workers))
                continue
            smooth = {0.01: 0.1, 0.05: 0.2}[relative] if family.smooth else None
            print(inside_row(name, problems, smooth, trials, workers), flush=True)
        if families is FAMILIES:
            for name, problems in recorded(repeats).items():
                print(inside_row(f"recorded: {name}", problems, None, trials, workers), flush=True)
    print("\n### Root outside the range\n\n| family, noise | says so, at the right end |\n|---|---|")
    print("\n".join(outside), flush=True)


def measure_proposal(finished: int) -> float:
    """Return the seconds of processor time of a proposal after so many finished trials."""
    problem = draw(FAMILIES["logistic"], 0.05, 0)
    sampler = LossMatchSampler("lambda", problem.target, noise=problem.floor(), seed=0)
    study, rng = optuna.create_study(sampler=sampler), np.random.default_rng(0)
    for _ in range(finished):
        u = float(rng.uniform())
        trial = optuna.create_trial(
            params={"lambda": LOW * (HIGH / LOW) ** u},
            distributions=SPACE,
            value=0.0,
            user_attrs={"residual": problem.residual(u, rng)},
        )
        study.add_trial(trial)
    started = time.process_time()
    study.ask(SPACE)
    return time.process_time() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    options: Any = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(
        f"# Matching a metric\n\n{date.today()}, Python {platform.python_version()}, optuna {optuna.__version__}, "
        f"{os.cpu_count()} cores. {options.trials} trials, {options.repeats} repeats. A proposal after 100 trials "
        f"takes {measure_proposal(100):.3f} s of processor time.\n"
    )
    for workers in options.workers:
        print(f"\n## {workers} at a time", flush=True)
        print_tables(options.repeats, options.trials, workers)


if __name__ == "__main__":
    main()
