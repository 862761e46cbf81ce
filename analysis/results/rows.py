"""Ledger records → one row per arm × seed × metric, and what is missing of what the study asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.results.current import Current, Record
from tune_interpreg.study.items import FORMAT

COLUMNS = ("arm", "seed", "metric", "value", "images", "key", "recipe_key")
AUTOATTACK = "test/adv_accuracy_autoattack"


@dataclass(frozen=True)
class MissingSeed:
    """One repeat that the study asks for and the ledger does not hold as done.

    state: absent, failed, diverged or pruned. error: the first line of what the trial said, if it said something.
    """

    arm: str
    seed: int
    state: str
    error: str | None = None


def tabulate(current: Current) -> pd.DataFrame:
    """Tidy results of finished repeats: columns arm, seed, metric, value, images, key, recipe_key; sorted as the study.

    Only seeds the study asks for; where a seed was trained twice the later result counts. Values as the ledger
    has them (accuracies as fractions in [0, 1]); one that is null or not finite becomes NaN. images: how many the
    metric rests on, 0 where the ledger does not say.
    """
    tidy = [
        (arm, seed, metric, _number(value), _images(record, metric), record["key"], record["recipe_key"])
        for arm, group in current.repeats.items()
        for seed, record in finished_repeats(group, current.study.seeds).items()
        for metric, value in record["metrics"][str(seed)].items()
    ]
    frame = pd.DataFrame(tidy, columns=list(COLUMNS))
    return frame.astype({"seed": "int64", "value": "float64", "images": "int64"})


def values(frame: pd.DataFrame, arm: str, metric: str) -> dict[int, float]:
    """seed → value of one metric of one arm; only finite values."""
    chosen = frame[(frame["arm"] == arm) & (frame["metric"] == metric)].dropna(subset=["value"])
    return {int(seed): float(value) for seed, value in zip(chosen["seed"], chosen["value"], strict=True)}


def find_missing(current: Current) -> list[MissingSeed]:
    """Every asked (arm, seed) without a finished repeat, and why, in the study's order."""
    return [
        _why(arm, seed, group)
        for arm, group in current.repeats.items()
        for seed in current.study.seeds
        if seed not in finished_repeats(group, current.study.seeds)
    ]


def list_troubles(current: Current) -> list[str]:
    """What went wrong beside the repeats, one line per arm, role, state and error; it may hold arms back."""
    found = [
        (record["arm"], record["role"], record["state"], first_line(record.get("error")))
        for by_arm in (current.trials, current.maps, current.checks)
        for group in by_arm.values()
        for record in group
        if record["state"] in ("failed", "diverged")
    ]
    return [
        f"{arm}: {count} {role} {state}" + (f": {error}" if error else "")
        for (arm, role, state, error), count in Counter(found).items()
    ]


def describe_foreign(current: Current) -> dict[str, str]:
    """arm → how many of its records another version of the code made, in another format than this one's."""
    counts = {arm: current.foreign[arm] for arm in current.study.arms if current.foreign[arm]}
    return {arm: f"{count} record{'s' * (count > 1)} of another format than {FORMAT}" for arm, count in counts.items()}


def collect_facts(current: Current) -> dict[str, list[Any]]:
    """What the finished repeats say of their runs: all distinct values of train_images, test_images,
    gradient_images and device."""
    finished = [r for group in current.repeats.values() for r in group if r["state"] == "done"]
    counted = {"train_images": "train", "test_images": "test", "gradient_images": "grad_norm"}
    counts = {name: _distinct(r["counts"].get(key) for r in finished) for name, key in counted.items()}
    return counts | {"device": _distinct(r.get("device") for r in finished)}


def first_line(error: str | None, width: int = 160) -> str | None:
    """The first line of an error, cut to a width in characters."""
    line = next(iter((error or "").strip().splitlines()), "")
    return (line if len(line) <= width else line[: width - 1] + "…") or None


def finished_repeats(group: list[Record], seeds: Collection[int]) -> dict[int, Record]:
    """seed → the repeat that trained its model, the later one of two, for those of the seeds that have one."""
    held = {seed: r for r in group if r["state"] == "done" for seed in r["seeds"] if str(seed) in r["metrics"]}
    return {seed: held[seed] for seed in seeds if seed in held}


def _why(arm: str, seed: int, group: list[Record]) -> MissingSeed:
    tried = [record for record in group if seed in record["seeds"]]
    if not tried:
        return MissingSeed(arm, seed, "absent")
    state = tried[-1]["state"] if tried[-1]["state"] != "done" else "diverged"  # the seeds beside it went on
    return MissingSeed(arm, seed, state, first_line(tried[-1].get("error")))


def _images(record: Record, metric: str) -> int:
    counted = "autoattack" if metric == AUTOATTACK else metric.split("/")[0]
    return int(record["counts"].get(counted, 0))


def _number(value: Any) -> float:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan


def _distinct(found: Iterable[Any]) -> list[Any]:
    return sorted({value for value in found if value})
