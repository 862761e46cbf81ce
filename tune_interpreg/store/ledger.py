"""The record of an item: what ran, with which versions, and the result. A record is plain JSON."""

import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import FORMAT

RecordState = Literal["done", "failed", "diverged", "pruned"]


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of everything that can change a number."""
    packages = ("tune-interpreg", "torch", "numpy", "ray", "optuna", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def make_record(
    item: Item,
    state: RecordState,
    *,
    metrics: Mapping[int, Mapping[str, float]] | None = None,
    counts: Mapping[str, int] | None = None,
    files: Mapping[str, str] | None = None,
    error: str | None = None,
    epochs: int = 0,
    seconds: float = 0.0,
    spent: Mapping[str, float] | None = None,
    device: str = "",
    host: str = "",
) -> Record:
    """Return the record of a finished ``item``.

    Args:
        metrics: seed → metric → value. Values that are not finite are left out.
        counts: number of images per judgment.
        files: the files that the item made, as ``Store.checksums`` returns them.
        seconds: total time of the item's workers; ``spent`` is this time by kind of work, as far as they measure it.
    """
    content: dict[str, Any] = item.model_dump(mode="json")
    content["recipe"]["data"].pop("root")
    return {
        "format": FORMAT,
        "key": item.key,
        "recipe_key": item.recipe.key,
        **content,
        "state": state,
        "metrics": {
            str(seed): {name: float(value) for name, value in values.items() if math.isfinite(value)}
            for seed, values in (metrics or {}).items()
        },
        "counts": dict(counts or {}),
        "files": dict(files or {}),
        "error": error,
        "epochs": epochs,
        "seconds": round(seconds, 3),
        "spent": {kind: round(duration, 3) for kind, duration in (spent or {}).items()},
        "device": device,
        "host": host,
        "versions": package_versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def lost_seeds(record: Record) -> set[int]:
    """Return the diverged seeds of a finished repeat of several seeds: they have no metrics; ``error`` says why."""
    if (record["role"], record["state"]) != ("repeat", "done"):
        return set()
    return {seed for seed in record["seeds"] if str(seed) not in record["metrics"]}


def mean_metric(record: Record, metric: str) -> float | None:
    """Return the mean of ``metric`` over the record's seeds, or None if a seed lacks it."""
    values = [metrics[metric] for metrics in record["metrics"].values() if metrics.get(metric) is not None]
    return sum(values) / len(values) if values and len(values) == len(record["metrics"]) else None
