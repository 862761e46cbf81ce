"""Ledger records → one row per arm × seed × metric, and what is missing of what the study asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tune_interpreg.config import Arm, Study

Record = dict[str, Any]

COLUMNS = ("arm", "seed", "metric", "value", "images", "key", "recipe_key")
AUTOATTACK = "test/adv_accuracy_autoattack"


@dataclass(frozen=True)
class Missing:
    """One repeat that the study asks for and the ledger does not hold as done.

    state: absent, failed, diverged or pruned. error: the first line of what the trial said, if it said something.
    """

    arm: str
    seed: int
    state: str
    error: str | None = None


def repeats(records: Iterable[Record], study: Study) -> dict[str, list[Record]]:
    """The repeats that answer the study as it stands: arm → records of any state, oldest first.

    An arm that was searched further, or changed, has repeats under several recipes, which no mean may mix:
    those that contradict the arm or a teacher's present models are dropped, and of the rest the recipe that
    finished last is kept.
    """
    trained = [record for record in records if record["role"] == "repeat"]
    oldest_first = sorted(trained, key=lambda record: (record["finished"], record["key"]))
    of_arm = {name: [r for r in oldest_first if r["arm"] == name] for name in study.arms}
    kept: dict[str, list[Record]] = {}
    for name in _teachers_first(study):
        arm = study.arms[name]
        taught_by = {r["key"] for r in kept[arm.targets.teacher]} if arm.targets else set()
        kept[name] = _latest_recipe([r for r in of_arm[name] if _agrees(r["recipe"], arm, taught_by)], arm)
    return {name: kept[name] for name in study.arms}


def left_out(records: Iterable[Record], study: Study) -> dict[str, int]:
    """How many done repeats of each arm were made under another recipe than the current; arms with none absent."""
    held = list(records)
    kept = {record["key"] for group in repeats(held, study).values() for record in group}
    others = [r["arm"] for r in held if _is_done_repeat(r) and r["arm"] in study.arms and r["key"] not in kept]
    return {arm: others.count(arm) for arm in study.arms if arm in others}


def rows(records: Iterable[Record], study: Study) -> pd.DataFrame:
    """Tidy results of finished repeats: columns arm, seed, metric, value, images, key, recipe_key; sorted as the study.

    Only seeds the study asks for; where a seed was trained twice the later result counts. Values as the ledger
    has them (accuracies as fractions in [0, 1]); one that is null or not finite becomes NaN. images: how many the
    metric rests on, 0 where the ledger does not say.
    """
    tidy = [
        (arm, seed, metric, _number(value), _images(record, metric), record["key"], record["recipe_key"])
        for arm, group in repeats(records, study).items()
        for seed, record in _done(group, study.seeds).items()
        for metric, value in record["metrics"][str(seed)].items()
    ]
    frame = pd.DataFrame(tidy, columns=list(COLUMNS))
    return frame.astype({"seed": "int64", "value": "float64", "images": "int64"})


def values(frame: pd.DataFrame, arm: str, metric: str) -> dict[int, float]:
    """seed → value of one metric of one arm; only finite values."""
    chosen = frame[(frame["arm"] == arm) & (frame["metric"] == metric)].dropna(subset=["value"])
    return {int(seed): float(value) for seed, value in zip(chosen["seed"], chosen["value"], strict=True)}


def missing(records: Iterable[Record], study: Study) -> list[Missing]:
    """Every asked (arm, seed) without a finished repeat, and why, in the study's order."""
    return [
        _why(arm, seed, group)
        for arm, group in repeats(records, study).items()
        for seed in study.seeds
        if seed not in _done(group, study.seeds)
    ]


def troubles(records: Iterable[Record], study: Study) -> list[str]:
    """What went wrong before the repeats, one line per arm, role, state and error; it may hold arms back."""
    before = [r for r in records if r["arm"] in study.arms and r["role"] != "repeat"]
    found = [
        (record["arm"], record["role"], record["state"], first_line(record.get("error")))
        for record in before
        if record["state"] in ("failed", "diverged")
    ]
    return [
        f"{arm}: {count} {role} {state}" + (f": {error}" if error else "")
        for (arm, role, state, error), count in Counter(found).items()
    ]


def facts(records: Iterable[Record], study: Study) -> dict[str, list[Any]]:
    """What the finished repeats say of their runs: all distinct values of train_images, test_images,
    gradient_images and device."""
    done = [r for group in repeats(records, study).values() for r in group if r["state"] == "done"]
    counted = {"train_images": "train", "test_images": "test", "gradient_images": "grad_norm"}
    counts = {name: _distinct(r["counts"].get(key) for r in done) for name, key in counted.items()}
    return counts | {"device": _distinct(r.get("device") for r in done)}


def first_line(error: str | None, width: int = 160) -> str | None:
    """The first line of an error, cut to a width in characters."""
    line = next(iter((error or "").strip().splitlines()), "")
    return (line if len(line) <= width else line[: width - 1] + "…") or None


def _teachers_first(study: Study) -> list[str]:
    order: list[str] = []

    def visit(name: str) -> None:
        targets = study.arms[name].targets
        if targets and targets.teacher not in order:
            visit(targets.teacher)
        if name not in order:
            order.append(name)

    for name in study.arms:
        visit(name)
    return order


def _agrees(recipe: Record, arm: Arm, teachers: Collection[str]) -> bool:
    """Whether a recipe contradicts nothing the arm fixes; what the arm searches, it leaves open."""
    same_method = recipe["method"] == arm.method
    same_params = all(recipe["params"].get(name, value) == value for name, value in arm.params.items())
    if not arm.targets:
        return same_method and same_params
    maps = recipe.get("maps") or {}
    fixed = arm.targets.model_dump(exclude={"teacher", "teachers"})
    same_maps = all(maps.get(name, value) == value for name, value in fixed.items())
    same_teacher = "teacher" not in maps or maps["teacher"] in teachers
    return same_method and same_params and same_maps and same_teacher


def _latest_recipe(group: list[Record], arm: Arm) -> list[Record]:
    """The records that share the last one's recipe; where each seed has a teacher of its own, but for the teacher."""
    if arm.targets is None or arm.targets.teachers == "shared":
        return [record for record in group if record["recipe_key"] == group[-1]["recipe_key"]]
    return [record for record in group if _without_teacher(record) == _without_teacher(group[-1])]


def _without_teacher(record: Record) -> Record:
    own = {key: value for key, value in record["recipe"]["maps"].items() if key not in ("teacher", "teacher_seed")}
    return {**record["recipe"], "maps": own}


def _done(group: list[Record], seeds: Collection[int]) -> dict[int, Record]:
    held = {seed: r for r in group if r["state"] == "done" for seed in r["seeds"] if str(seed) in r["metrics"]}
    return {seed: held[seed] for seed in seeds if seed in held}


def _why(arm: str, seed: int, group: list[Record]) -> Missing:
    tried = [record for record in group if seed in record["seeds"]]
    if not tried:
        return Missing(arm, seed, "absent")
    state = tried[-1]["state"] if tried[-1]["state"] != "done" else "diverged"  # the seeds beside it went on
    return Missing(arm, seed, state, first_line(tried[-1].get("error")))


def _is_done_repeat(record: Record) -> bool:
    return bool(record["role"] == "repeat" and record["state"] == "done")


def _images(record: Record, metric: str) -> int:
    counted = "autoattack" if metric == AUTOATTACK else metric.split("/")[0]
    return int(record["counts"].get(counted, 0))


def _number(value: Any) -> float:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan


def _distinct(found: Iterable[Any]) -> list[Any]:
    return sorted({value for value in found if value})
