"""What bfloat16 in training's attacks and in target maps does to accuracy, beside float32, on 1,000 images of MNIST.

Runs the study beside it, effect_precision.yaml, and its adversarial arm once more with ``attack.precision: bfloat16``,
as ``tune-interpreg run`` would (stop it, run it again, and it goes on), and prints Markdown; models are judged in
float32. About ten minutes on two cores:

    python tests/benchmarks/effect_precision.py --data-root DATA > tests/benchmarks/effect_precision.md

Exit codes: 0 done, 2 bad input or an unfinished study, 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import torch
from rich.console import Console

from analysis.paper import ACCURACY, ADV_COMPAT, ADV_STRICT
from analysis.statistics.intervals import Interval, paired, student_t
from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.running import run as running
from tune_interpreg.store.store import Store, StoreError
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.file.yaml_lines import StudyError

STUDY = Path(__file__).with_suffix(".yaml")
SHOWN = {ACCURACY: "clean", ADV_STRICT: "adversarial, strict", ADV_COMPAT: "adversarial, compat"}

#: Store → what is other than in the study file.
RUNS = {
    "float32": (),
    "bfloat16": ("attack.precision=bfloat16", "arms={adversarial: {method: adversarial}}"),
}

#: What is compared: title → (store, arm) in float32 and in bfloat16.
PAIRS = {
    "training's attack": (("float32", "adversarial"), ("bfloat16", "adversarial")),
    "target maps": (("float32", "interpretation"), ("float32", "interpretation_bfloat16")),
}

#: Metric → seed → its value, in percent.
Metrics = Mapping[str, Mapping[int, float]]


def measured(store: Store, arm: str) -> Metrics:
    """The accuracies of the arm's repeats."""
    repeats = [one for one in store.records() if (one["arm"], one["role"], one["state"]) == (arm, "repeat", "done")]
    by_seed = {int(seed): metrics for one in repeats for seed, metrics in one["metrics"].items()}
    return {metric: {seed: 100 * metrics[metric] for seed, metrics in by_seed.items()} for metric in SHOWN}


def table(folder: Path) -> Iterator[str]:
    yield "| bfloat16 in | accuracy | float32, % | bfloat16, % | difference, points, paired by seed |"
    yield "|---|---|---:|---:|---:|"
    for title, pair in PAIRS.items():
        one, other = (measured(Store(folder / store), arm) for store, arm in pair)
        for metric, name in SHOWN.items():
            yield f"| {title} | {name} | {' | '.join(_compared(one[metric], other[metric]))} |"


def _compared(one: Mapping[int, float], other: Mapping[int, float]) -> Iterator[str]:
    yield from (_said(student_t(values.values()), "") for values in (one, other))
    yield _said(paired(other, one), "+")


def _said(interval: Interval, sign: str) -> str:
    return f"{interval.mean:{sign}.2f} [{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


def page(folder: Path) -> str:
    told = (
        f"{date.today()}; {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}. "
        f"`{STUDY.name}`: five seeds, means with Student t intervals of 95%; models are judged in float32."
    )
    return "\n".join(["# bfloat16 in attacks and maps", "", told, "", *table(folder)])


def main() -> int:
    options = _options()
    for name, overrides in RUNS.items():
        try:
            file = study_file.read(str(STUDY), overrides, options.data_root)
            store = Store(options.store / name)
            code = running.run(file, store, where=options.cluster, retry_failed=True, console=Console(stderr=True))
        except (StudyError, StoreError, ClusterError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if code:
            return code if code > 128 else 2
    print(page(options.store))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    root = os.environ.get("TUNE_INTERPREG_DATA") or None
    folder = "folder that holds MNIST/raw; default $TUNE_INTERPREG_DATA; without either they are downloaded"
    parser.add_argument("--data-root", type=Path, default=root, help=folder)
    parser.add_argument("--store", type=Path, default=Path("runs", STUDY.stem), help="folder for all results")
    parser.add_argument("--cluster", default="local", help="local, in-process, auto or HOST:PORT, as in `run`")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
