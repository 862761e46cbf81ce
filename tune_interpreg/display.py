"""What `run` shows while it works: a live tally in a terminal, a line a finished item in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from tune_interpreg import ledger
from tune_interpreg.items import Item
from tune_interpreg.store import Record

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


class Live:
    """Progress bars: the study's, and one for each item under way."""

    def __init__(self, console: Console, settled: int, total: int):
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self.study = self.progress.add_task("study", total=total, completed=settled, note="")
        self.bars: dict[str, Any] = {}

    def __enter__(self) -> Live:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def start(self, item: Item) -> None:
        epochs = None if item.role == "targets" else item.recipe.training.epochs
        self.bars[item.key] = self.progress.add_task(name(item), total=epochs, note="")

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        if item.key in self.bars:
            note = f"loss {metrics['train/loss']:.3g}" if "train/loss" in metrics else ""
            self.progress.update(self.bars[item.key], completed=metrics["epoch"], note=note)

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        if item.key in self.bars:
            self.progress.remove_task(self.bars.pop(item.key))
        self.progress.update(self.study, completed=settled, total=total)
        self.progress.console.print(Text(summary(item, record)), soft_wrap=True)


def name(item: Item) -> str:
    """The item in words: arm, stage, and what is searched or repeated."""
    if item.role == "targets":
        return f"{item.arm}: target maps"
    if item.role == "repeat":
        seeds = ", ".join(map(str, item.seeds))
        return f"{item.arm}: repeat, seed {seeds}"
    numbers = {key: value for key, value in item.recipe.params.items() if not isinstance(value, str)}
    params = ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
    return f"{item.arm}: trial {item.number} ({params})"


def summary(item: Item, record: Record) -> str:
    """The item and what came of it."""
    if record["state"] in ("failed", "diverged"):
        reason = (record["error"] or "").splitlines()[:1]
        return f"{name(item)}: {record['state'].upper()}: {' '.join(reason)}"
    means = {key: mean for key in SHOWN if (mean := ledger.mean(record, key)) is not None}
    told = ", ".join(f"{key} {value:.4g}" for key, value in means.items())
    state = "" if record["state"] == "done" else f" {record['state']}"
    return f"{name(item)}:{state} {told or 'done'} ({record['seconds']:.1f} s)"
