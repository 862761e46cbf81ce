"""One row per arm, seed and metric from the records of a study, and a list of what is missing."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tune_interpreg.schedule.current import Current
from tune_interpreg.study.metric_names import GRAD_NORM_LABEL, TEST_ACCURACY

#: Names of one and of several records, by kind.
NOUNS = {"train": ("trial", "trials"), "maps": ("set of maps", "sets of maps"), "judge": ("judgment", "judgments")}

COLUMNS = ("arm", "seed", "metric", "value", "images", "key", "recipe_key")


@dataclass(frozen=True)
class MissingSeed:
    """A repeat that the study asks for without a finished training.

    state: absent, failed, diverged or pruned. error: the first line of the error, if there is one.
    """

    arm: str
    seed: int
    state: str
    error: str | None = None


def tabulate(current: Current) -> pd.DataFrame:
    """Return the metrics of finished repeats, one row per arm, seed of the study and metric, in the study's order.

    Columns: ``COLUMNS``. value: as recorded (accuracies in [0, 1]), or NaN if not finite. images: how many the metric
    was measured on, 0 if the record does not say.
    """
    tidy = [
        (arm, seed, metric, value, record["images"].get(metric, 0), record["key"], record["recipe_key"])
        for arm in current.study.arms
        for seed, record in current.finished_repeats(arm).items()
        for metric, value in record["metrics"].items()
    ]
    frame = pd.DataFrame(tidy, columns=list(COLUMNS)).astype({"seed": "int64", "value": "float64", "images": "int64"})
    return frame.replace({"value": {math.inf: math.nan, -math.inf: math.nan}})


def find_missing(current: Current) -> list[MissingSeed]:
    """Return every asked (arm, seed) without a finished repeat, with the reason, in the study's order."""
    missing = []
    for arm, repeats in current.repeats.items():
        for seed in current.study.seeds:
            record = repeats.get(seed)
            if record is None:
                missing.append(MissingSeed(arm, seed, "absent"))
            elif record["state"] != "done":
                missing.append(MissingSeed(arm, seed, record["state"], first_line(record["error"])))
    return missing


def list_troubles(current: Current) -> list[str]:
    """Return what failed or diverged except repeats: one line per arm, kind, state and error."""
    troubles = [
        (arm, record["kind"], record["state"], first_line(record["error"]))
        for arm in current.study.arms
        for stage, record in current.records_by_stage(arm)
        if stage != "repeats" and record["state"] in ("failed", "diverged")
    ]
    return [
        f"{arm}: {count} {NOUNS[kind][count > 1]} {state}" + (f": {error}" if error else "")
        for (arm, kind, state, error), count in Counter(troubles).items()
    ]


def collect_facts(current: Current) -> dict[str, list[Any]]:
    """Return the distinct train_images, test_images, gradient_images and devices of the finished repeats."""
    finished = [record for arm in current.study.arms for record in current.finished_repeats(arm).values()]
    metrics = {"test_images": TEST_ACCURACY, "gradient_images": GRAD_NORM_LABEL}
    facts = {"train_images": {record["training"]["images"].get("train") for record in finished}}
    facts |= {name: {record["images"].get(metric) for record in finished} for name, metric in metrics.items()}
    facts["device"] = {record["device"] for record in finished}
    return {name: sorted(value for value in values if value) for name, values in facts.items()}


def first_line(error: str | None, width: int = 160) -> str | None:
    """Return the first line of an error, cut to ``width`` characters; None if there is no text."""
    lines = (error or "").strip().splitlines()
    return lines[0][:width] if lines else None
