"""Measure the effect of bfloat16 in training's attacks and in target maps on accuracy, on a thousand images of MNIST.

Runs the study effect_precision.yaml, and its adversarial arm once more with ``attack.precision: bfloat16``, as
``tune-interpreg run`` does (an interrupted run is resumed), and prints Markdown. Models are judged in float32. Takes
about ten minutes on two cores:

    python tests/benchmarks/effect_precision.py --data-root DATA > tests/benchmarks/effect_precision.md

Exit codes: 0 done, 2 bad input or an unfinished study, 130 or 143 interrupted.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import torch
from effect_run import parse_options, run_study

from analysis.results.results import Results
from analysis.statistics.intervals import Interval, paired_differences, student_t
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_COMPAT, TEST_STRICT

STUDY = Path(__file__).with_suffix(".yaml")
ACCURACIES = {TEST_ACCURACY: "clean", TEST_STRICT: "adversarial, strict", TEST_COMPAT: "adversarial, compat"}

#: Store → its changes to the study file.
RUNS = {
    "float32": (),
    "bfloat16": ("attack.precision=bfloat16", "arms={adversarial: {method: adversarial}}"),
}

#: Title → the compared (store, arm) in float32 and in bfloat16.
PAIRS = {
    "training's attack": (("float32", "adversarial"), ("bfloat16", "adversarial")),
    "target maps": (("float32", "interpretation"), ("float32", "interpretation_bfloat16")),
}


def table(runs: Mapping[str, Results]) -> Iterator[str]:
    yield "| bfloat16 in | accuracy | float32, % | bfloat16, % | difference, points, paired by seed |"
    yield "|---|---|---:|---:|---:|"
    for title, arms in PAIRS.items():
        for metric, name in ACCURACIES.items():
            exact, short = (runs[store].values(arm, metric) for store, arm in arms)
            means = [_format_interval(student_t(values.values()), "") for values in (exact, short)]
            difference = _format_interval(student_t(paired_differences(short, exact).values()), "+")
            yield f"| {title} | {name} | {' | '.join(means)} | {difference} |"


def _format_interval(interval: Interval, sign: str) -> str:
    percent = interval.scaled(100)
    return f"{percent.mean:{sign}.2f} [{percent.low:{sign}.2f}, {percent.high:{sign}.2f}]"


def main() -> None:
    options, runs = parse_options(STUDY, __doc__ or ""), {}
    for name, changes in RUNS.items():
        study = run_study(STUDY, options.store / name, options, changes)
        runs[name] = Results.from_store(Store(options.store / name), study)
    heading = (
        f"{date.today()}; {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}. "
        f"`{STUDY.name}`: five seeds, means with Student t intervals of 95%; models are judged in float32."
    )
    print("\n".join(["# bfloat16 in attacks and maps", "", heading, "", *table(runs)]))


if __name__ == "__main__":
    main()
