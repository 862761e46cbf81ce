"""Measure what reproducible searches cost: a trial waits for the trials that it is proposed from.

Simulates the shipped study ``digits`` on workers that only count time, with random times of all tasks, in four ways:
by the rule; by the rule, but without the rounds of a match; with as many trials of a search at once, but the next one
starts whenever any of them ends; and with all trials of a search at once. The result next to this file is made by

    python tests/benchmarks/bench_waiting.py > tests/benchmarks/waiting.md

Exit codes: 0 the goal is met, 1 it is not.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from unittest.mock import patch

import numpy as np

from tune_interpreg import seeding
from tune_interpreg.planning.forecast import simulate
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.space import Search

WORKERS = (1, 2, 4, 16)
SPREADS = (0.25, 0.5, 1.0)  # standard deviation of the logarithm of a task's time
MEDIANS = {"search": 1.0, "repeats": 1.5, "maps": 0.3, "judgments": 0.2}  # of a task's time, in units of a trial's

#: Most wall time of the whole study by the rule, relative to searches that wait for no straggler, in the mean.
GOAL = 1.05

EXPLANATION = """
**Simulated**: the whole study `digits`, by the same graph and the same order of tasks as a run, on workers that only
count time. The time of each task is log-normal; its median depends on the stage (a repeat takes 1.5 trials, as it is
judged on test data, too), its spread is the standard deviation of its logarithm. At a spread of 1, one trial in ten
takes more than 3.6 times the median. The four runs of a draw have the same times. A match takes all of its trials.

**Waiting**: wall time by the rule, divided by the wall time if the next trial starts whenever one of `search.parallel`
ends. The rule: a trial waits for the trials that it is proposed from; a match goes in rounds. Without it, results
depend on the workers. **No rounds**: trial n of a match, too, waits for the trials 0 … n − parallel alone, the least
that reproducible proposals have to wait for. **All at once**: the wall time by the rule, divided by that if all trials
of a search start at once. Then no trial is proposed from a result. With more workers than `parallel` times the open
searches, raise `parallel`.
"""

#: Workers of a large cluster.
WIDE = 1000

WIDE_EXPLANATION = """
**A large cluster**: one standard arm and 20 searches of 200 trials, five seeds each, at a spread of 0.5, the median of
a trial as the unit. The default of `parallel` leaves such a cluster idle; the last row proposes nothing from results.
"""


def start_at_any_end(study: Study, state: State, name: str) -> Iterator[Task]:
    """Yield the next trial of an arm's search while fewer than ``parallel`` run."""
    search, trials = study.arms[name].search, state.searches[name]
    assert search is not None
    started = trials.settled | trials.running
    number = next((number for number in range(search.trials) if number not in started), None)
    if number is not None and len(trials.running) < search.parallel:
        yield Task(name, "search", (number,))


def start_at_once(study: Study) -> Study:
    """Return the study with searches that start all trials at once."""
    arms = {}
    for name, arm in study.arms.items():
        search = arm.search and arm.search.model_copy(update={"parallel": arm.search.trials})
        arms[name] = arm.model_copy(update={"search": search})
    return study.model_copy(update={"arms": arms})


def draw(task: Task, spread: float, repeat: int) -> float:
    """Return the time of a task, in units of a trial's median."""
    rng = np.random.default_rng(seeding.number(repeat, task.arm, task.stage, str(task.parts)))
    return MEDIANS[task.stage] * float(rng.lognormal(sigma=spread))


def count_without_rounds(search: Search, number: int) -> int:
    """Return how many of the first trials must be settled before trial ``number`` of any search, a match or not."""
    return max(0, number - search.parallel + 1)


def measure(study: Study, workers: int, spread: float, repeat: int) -> tuple[float, float, float]:
    """Return the wall time by the rule, and without rounds, relative to no waiting; that by the rule to all at once."""

    def seconds(task: Task, state: State) -> float:
        return draw(task, spread, repeat)

    def end(of: Study) -> float:
        return simulate(of, State.empty(of), seconds, workers).end

    with patch.object(graph, "_search_tasks", start_at_any_end):
        without = end(study)
    with patch.object(Search, "known_trials", count_without_rounds):
        no_rounds = end(study)
    by_rule = end(study)
    return by_rule / without, no_rounds / without, by_rule / end(start_at_once(study))


def table(ratios: Mapping[tuple[float, int], Sequence[tuple[float, float, float]]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of ratios."""
    yield "| spread | workers | waiting, mean | standard error | 90th percentile | no rounds | all at once |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for (spread, workers), repeats in ratios.items():
        waiting, no_rounds, at_once = zip(*repeats, strict=True)
        error = statistics.stdev(waiting) / len(waiting) ** 0.5
        figures = f"{statistics.fmean(waiting):.3f} | {error:.3f} | {np.quantile(waiting, 0.9):.3f}"
        means = f"{statistics.fmean(no_rounds):.3f} | {statistics.fmean(at_once):.3f}"
        yield f"| {spread} | {workers} | {figures} | {means} |"


def wide_study(parallel: int) -> Study:
    """Return a study of 20 searches of 200 trials, for a cluster of WIDE workers."""
    search = {"space": {"lambda_j": {"log_uniform": [0.001, 1.0]}}, "maximize": "val/adv_accuracy", "trials": 200}
    searched = {"method": "jacobian", "search": search | {"parallel": parallel}}
    arms = {"standard": {"method": "standard"}} | {f"jacobian_{number}": searched for number in range(20)}
    return Study.model_validate(
        {"name": "wide", "data": {"name": "digits"}, "evaluation": {"checks": None}, "arms": arms}
    )


def wide_table() -> Iterator[str]:
    """Yield the lines of a Markdown table: what a large cluster does by ``search.parallel``."""
    yield f"| parallel | wall time of the study, trials | share of {WIDE:,} workers that is busy |"
    yield "|---:|---:|---:|"
    for parallel in (4, 16, 50, 100, 200):
        times: list[float] = []

        def seconds(task: Task, state: State, times: list[float] = times) -> float:
            times.append(draw(task, 0.5, 0))
            return times[-1]

        study = wide_study(parallel)
        end = simulate(study, State.empty(study), seconds, WIDE).end
        yield f"| {parallel} | {end:.1f} | {sum(times) / WIDE / end:.0%} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--study", default="digits")
    options = parser.parse_args()
    study = read_study_file(options.study).study
    ratios = {
        (spread, workers): [measure(study, workers, spread, repeat) for repeat in range(options.repeats)]
        for spread in SPREADS
        for workers in WORKERS
    }
    means = {key: statistics.fmean(waiting for waiting, *_ in repeats) for key, repeats in ratios.items()}
    worst = {workers: max(means[spread, workers] for spread in SPREADS) for workers in WORKERS}
    print(
        f"# What reproducible searches cost\n\n{date.today()}, tune-interpreg {version('tune-interpreg')}, study",
        end=" ",
    )
    print(f"{options.study}, {options.repeats} draws of all times per row.\n")
    for workers, ratio in worst.items():
        verdict = "PASS" if ratio <= GOAL else "MISSED"
        print(f"- **{verdict}** waiting with {workers} workers: at most {GOAL} times the wall time: {ratio:.3f} times")
    print()
    print("\n".join(table(ratios)))
    print(EXPLANATION)
    print("\n".join(wide_table()))
    print(WIDE_EXPLANATION, end="")
    return 0 if all(ratio <= GOAL for ratio in worst.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
