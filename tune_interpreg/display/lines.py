"""What `run` tells while it works: a line a finished item in a log; ``live`` has what a terminal shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.text import Text

from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item

#: The metrics that a finished item is summed up by, where it has them.
SHOWN = ("train/loss", "val/accuracy", "val/adv_accuracy", "test/accuracy", "test/adv_accuracy_strict")


class Display(Protocol):
    """Hears of every item: when it starts, at each epoch, and when it is settled."""

    def start(self, item: Item) -> None: ...

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None: ...

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None: ...


class Lines:
    """One line a settled item, for log files and pipes."""

    def __init__(self, console: Console):
        self.console = console
        self.started = time.monotonic()

    def start(self, item: Item) -> None:
        """Nothing: a log has a line an item."""

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        """Nothing, likewise."""

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        line = f"[{minutes:3d}:{seconds:02d}] {settled}/{total} {summary(item, record)}"
        self.console.print(Text(line), soft_wrap=True)


def summary(item: Item, record: Record) -> str:
    """The item and what came of it."""
    if record["state"] in ("failed", "diverged"):
        reason = (record["error"] or "").splitlines()[:1]
        return f"{item.title}: {record['state'].upper()}: {' '.join(reason)}"
    if checks := [one for found in record.get("checks", {}).values() for one in found if one["n"]]:
        warned = [one["check"] for one in checks if one["state"] == "WARN"]
        told = f"{len(warned)} of {len(checks)} warn ({', '.join(warned)})" if warned else f"{len(checks)} passed"
        return f"{item.title}: {told} ({record['seconds']:.1f} s)"
    means = {key: mean for key in SHOWN if (mean := ledger.mean_metric(record, key)) is not None}
    told = ", ".join(f"{key} {value:.4g}" for key, value in means.items())
    state = "" if record["state"] == "done" else f" {record['state']}"
    held = record.get("gpu_bytes_a_seed")
    memory = f", {held / 2**20:,.0f} MiB of GPU memory a seed" if held else ""
    lost = f"; {record['error']}" if ledger.lost_seeds(record) else ""
    return f"{item.title}:{state} {told or 'done'} ({record['seconds']:.1f} s{memory}){lost}"
