"""The record of an item: what ran, with which versions, and the result. A record is plain JSON."""

import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item, Job, Train
from tune_interpreg.study.measures import Observation
from tune_interpreg.study.recipe import FORMAT

RecordState = Literal["done", "failed", "diverged", "pruned"]


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of everything that can change a number."""
    packages = ("tune-interpreg", "torch", "numpy", "ray", "optuna", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def make_record(
    job: Job,
    item: Item,
    state: RecordState,
    *,
    metrics: Mapping[str, float] | None = None,
    images: Mapping[str, int] | None = None,
    files: Mapping[str, str] | None = None,
    error: str | None = None,
    epochs: int = 0,
    seconds: float = 0.0,
    spent: Mapping[str, float] | None = None,
    device: str = "",
    host: str = "",
) -> Record:
    """Return the record of a finished ``item`` of a ``job``.

    Args:
        metrics: metric → value. Values that are not finite are left out.
        images: split → the number of its images that the item read.
        files: the files that the item made, as ``Store.checksums`` returns them.
        epochs: steps of the item: epochs of a training, blocks of maps, checks.
        seconds: total time of the item's workers; ``spent`` is this time by kind of work, as far as they measure it.
    """
    content: dict[str, Any] = item.model_dump(mode="json")
    if isinstance(item, Train):
        content["recipe"]["data"].pop("root")
        content |= {"recipe_key": item.recipe.key, "number": job.number, "observation": _dump(job.observation)}
        if code := item.recipe.code:
            content["code"] = code
    return {
        "format": FORMAT,
        "key": item.key,
        "arm": job.arm,
        "seed": job.model_of(item).seed,
        **content,
        "state": state,
        "metrics": {name: float(value) for name, value in (metrics or {}).items() if math.isfinite(value)},
        "images": dict(images or {}),
        "files": dict(files or {}),
        "error": error,
        "epochs": epochs,
        "seconds": round(seconds, 3),
        "spent": {kind: round(duration, 3) for kind, duration in (spent or {}).items()},
        "device": device,
        "host": host,
        "versions": package_versions(),
        "finished": datetime.now(UTC).isoformat(timespec="microseconds"),  # the latest of equal parts counts
    }


def _dump(observation: Observation) -> dict[str, Any]:
    return observation.model_dump(mode="json")


def find_inputs(record: Mapping[str, Any]) -> list[str]:
    """Return the keys of the items with the files that a record's item read."""
    if record["kind"] == "train":
        inputs = (record["recipe"].get(name) for name in ("maps", "teacher"))  # older records have no teacher
        return [item["key"] for item in inputs if item]
    if record["kind"] == "maps":
        return [record["teacher"]]
    measure = record["measure"]
    return [record["model"], *measure.get("sources", {}).values(), *measure.get("maps", {}).values()]
