"""One row per arm, seed and metric from the records of a study, and a list of what is missing."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tune_interpreg.schedule.current import Current
from tune_interpreg.store.store import Record
from tune_interpreg.study.metric_names import TEST_AUTOATTACK
from tune_interpreg.study.recipe import FORMAT

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

    Columns: ``COLUMNS``. If a seed was trained twice, the later result counts. value: as recorded (accuracies in
    [0, 1]), or NaN if not finite. images: how many the metric was measured on, 0 if the record does not say.
    """
    tidy = [
        (arm, seed, metric, value, _images(record, metric), record["key"], record["recipe_key"])
        for arm, group in current.repeats.items()
        for seed, record in finished_repeats(group, current.study.seeds).items()
        for metric, value in record["metrics"][str(seed)].items()
    ]
    frame = pd.DataFrame(tidy, columns=list(COLUMNS)).astype({"seed": "int64", "value": "float64", "images": "int64"})
    return frame.replace({"value": {math.inf: math.nan, -math.inf: math.nan}})


def finished_repeats(group: list[Record], seeds: Collection[int]) -> dict[int, Record]:
    """Return seed → the repeat that trained its model, the later of two, for those of ``seeds`` that have one."""
    trained = {seed: r for r in group if r["state"] == "done" for seed in r["seeds"] if str(seed) in r["metrics"]}
    return {seed: trained[seed] for seed in seeds if seed in trained}


def find_missing(current: Current) -> list[MissingSeed]:
    """Return every asked (arm, seed) without a finished repeat, with the reason, in the study's order."""
    missing = []
    for arm, group in current.repeats.items():
        finished = finished_repeats(group, current.study.seeds)
        for seed in current.study.seeds:
            tried = [record for record in group if seed in record["seeds"]]
            if tried and seed not in finished:
                # A training of several seeds is done although one of them diverged.
                state = "diverged" if tried[-1]["state"] == "done" else tried[-1]["state"]
                missing.append(MissingSeed(arm, seed, state, first_line(tried[-1].get("error"))))
            elif not tried:
                missing.append(MissingSeed(arm, seed, "absent"))
    return missing


def list_troubles(current: Current) -> list[str]:
    """Return what failed or diverged in searches, maps and checks: one line per arm, role, state and error."""
    troubles = [
        (record["arm"], record["role"], record["state"], first_line(record.get("error")))
        for by_arm in (current.trials, current.maps, current.checks)
        for group in by_arm.values()
        for record in group
        if record["state"] in ("failed", "diverged")
    ]
    return [
        f"{arm}: {count} {role} {state}" + (f": {error}" if error else "")
        for (arm, role, state, error), count in Counter(troubles).items()
    ]


def describe_foreign(current: Current) -> dict[str, str]:
    """Return arm → how many of its records have a format of another version of the program."""
    counts = {arm: current.foreign[arm] for arm in current.study.arms if current.foreign[arm]}
    return {arm: f"{count} record{'s' * (count > 1)} of another format than {FORMAT}" for arm, count in counts.items()}


def collect_facts(current: Current) -> dict[str, list[Any]]:
    """Return the distinct train_images, test_images, gradient_images and devices of the finished repeats."""
    finished = [r for group in current.repeats.values() for r in group if r["state"] == "done"]
    counts = {"train_images": "train", "test_images": "test", "gradient_images": "grad_norm"}
    facts = {name: {r["counts"].get(key) for r in finished} for name, key in counts.items()}
    facts["device"] = {r.get("device") for r in finished}
    return {name: sorted(value for value in values if value) for name, values in facts.items()}


def first_line(error: str | None, width: int = 160) -> str | None:
    """Return the first line of an error, cut to ``width`` characters; None if there is no text."""
    lines = (error or "").strip().splitlines()
    return lines[0][:width] if lines else None


def _images(record: Record, metric: str) -> int:
    counted = "autoattack" if metric == TEST_AUTOATTACK else metric.split("/")[0]
    return int(record["counts"].get(counted, 0))
