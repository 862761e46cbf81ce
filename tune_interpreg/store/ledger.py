"""The record of an item: what ran, with which versions, and what came out. A record is plain JSON."""

from __future__ import annotations

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
    """Of all that can change a number."""
    packages = {name: version(name) for name in ("tune-interpreg", "torch", "numpy", "ray", "optuna", "scikit-learn")}
    return {"python": platform.python_version(), **packages}


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
    """The record of ``item``; ``metrics`` by seed, of which only finite ones are kept.

    files: those that the item made, as ``Store.checksums`` gives them. seconds: what its workers took in all; spent: on
    what, as far as they tell. host: the machine that did it.
    """
    content: dict[str, Any] = item.model_dump(mode="json")
    content["recipe"]["data"].pop("root")
    return {
        "format": FORMAT,
        "key": item.key,
        "recipe_key": item.recipe.key,
        **content,
        "state": state,
        "metrics": {str(seed): _finite(one) for seed, one in (metrics or {}).items()},
        "counts": dict(counts or {}),
        "files": dict(files or {}),
        "error": error,
        "epochs": epochs,
        "seconds": round(seconds, 3),
        "spent": {what: round(one, 3) for what, one in (spent or {}).items()},
        "device": device,
        "host": host,
        "versions": package_versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def lost_seeds(record: Record) -> set[int]:
    """Of a finished repeat of several seeds those that diverged: all without metrics; ``error`` says how."""
    if (record["role"], record["state"]) != ("repeat", "done"):
        return set()
    return {seed for seed in record["seeds"] if str(seed) not in record["metrics"]}


def mean_metric(record: Record, metric: str) -> float | None:
    """The mean of ``metric`` over the record's seeds, or None where a seed lacks it."""
    values = [one.get(metric) for one in record["metrics"].values()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
