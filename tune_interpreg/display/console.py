"""The two displays of a run: a line per finished item for logs and pipes, and a live tree for terminals.

The tree is drawn by its own thread, a few times per second, so an item costs the driver no drawing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import rich.live
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.display.tree import BAR, bar, draw_arms, one_line
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State
from tune_interpreg.schedule.listener import Listener
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_STRICT, TRAIN_LOSS, VAL_ACCURACY, VAL_ADV_ACCURACY

#: The metrics in the line of a finished item, if it has them.
SUMMARY_METRICS = (TRAIN_LOSS, VAL_ACCURACY, VAL_ADV_ACCURACY, TEST_ACCURACY, TEST_STRICT)

#: Seconds between two drawings.
INTERVAL = 0.25

#: Cells of an item's title.
TITLE = 36


class Lines(Listener):
    """Prints one line per settled item."""

    def __init__(self, console: Console):
        self.console = console
        self._started = time.monotonic()

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        line = f"[{_clock(self._started):>6}] {settled}/{total} {summarize(item, record)}"
        self.console.print(Text(line), soft_wrap=True)


class Live(Listener):
    """Draws the tree of arms with bars and running items, and prints settled items above it."""

    def __init__(self, console: Console, study: Study, state: State):
        self.console, self.study, self.state = console, study, state
        self._running: dict[str, _ItemLine] = {}
        self._settled: deque[str] = deque()
        self._started = time.monotonic()
        self._parents = graph.parents(study)
        self._live = rich.live.Live(self, console=console, auto_refresh=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw_repeatedly, daemon=True)

    def start(self, item: Item) -> None:
        epochs = item.recipe.training.epochs if item.role in ("search", "repeat") else None
        self._running[item.key] = _ItemLine(item, epochs)

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        line = self._running.get(item.key)
        if line:
            line.epoch, line.of = metrics["epoch"], metrics.get("of", line.of)
            line.loss = metrics.get(TRAIN_LOSS)

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        self._running.pop(item.key, None)
        self._settled.append(summarize(item, record))

    def __enter__(self) -> Live:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.draw()
        self._live.stop()

    def draw(self) -> None:
        """Print the newly settled items, and the tree below them."""
        lines = [self._settled.popleft() for _ in range(len(self._settled))]
        if lines:
            self.console.print(Text("\n".join(lines)), soft_wrap=True)
        else:
            self._live.refresh()

    def _draw_repeatedly(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.draw()

    def __rich__(self) -> Tree:
        running = list(self._running.values())
        leaves = {name: [line for line in running if line.item.arm == name] for name in self._parents}
        arms = {name: graph.stages_of(self.study, self.state, name) for name in self._parents}
        settled, total = self.state.settled, graph.count_parts(self.study, self.state)
        title = one_line(f"{self.study.name}  ").append_text(bar(settled, total, 2 * BAR))
        title.append(f" {settled}/{total}  {_clock(self._started)}")
        width, height = self.console.size
        return draw_arms(title, self._parents, arms, leaves, width, max(3, height - 2))  # room for cursor and log line


@dataclass
class _ItemLine:
    """The line of a running item: its bar of epochs and its last training loss."""

    item: Item
    of: float | None
    epoch: float = 0
    loss: float | None = None
    since: float = field(default_factory=time.monotonic)

    def __rich__(self) -> Text:
        line = one_line(self.item.title.removeprefix(f"{self.item.arm}: ").ljust(TITLE))
        if self.of:
            line.append(" ").append_text(bar(self.epoch, self.of, BAR)).append(f" {self.epoch:g}/{self.of:g}")
        line.append("" if self.loss is None else f"  loss {self.loss:.3g}")
        return line.append(f"  {_clock(self.since)}", "bright_black")


def summarize(item: Item, record: Record) -> str:
    """Return the item and its result in one line."""
    if record["state"] in ("failed", "diverged"):
        error = (record["error"] or "").partition("\n")[0]
        return f"{item.title}: {record['state'].upper()}: {error}"
    checks = [check for checks in record.get("checks", {}).values() for check in checks]
    if checks:
        by_state = {state: [c["check"] for c in checks if c["state"] == state] for state in ("PASS", "WARN", "NONE")}
        parts = [f"{len(by_state['PASS'])} passed"]
        for state, verb in (("WARN", "warn"), ("NONE", "had nothing to check")):
            if by_state[state]:
                parts.append(f"{len(by_state[state])} {verb} ({', '.join(by_state[state])})")
        return f"{item.title}: {', '.join(parts)} ({record['seconds']:.1f} s)"
    means = {name: ledger.mean_metric(record, name) for name in SUMMARY_METRICS}
    metrics = ", ".join(f"{name} {mean:.4g}" for name, mean in means.items() if mean is not None)
    state = "" if record["state"] == "done" else f" {record['state']}"
    gpu_bytes = record.get("gpu_bytes_a_seed")
    memory = f", {gpu_bytes / 2**20:,.0f} MiB of GPU memory per seed" if gpu_bytes else ""
    lost = f"; {record['error']}" if ledger.lost_seeds(record) else ""
    return f"{item.title}:{state} {metrics or 'done'} ({record['seconds']:.1f} s{memory}){lost}"


def _clock(since: float) -> str:
    """Return the time since a ``time.monotonic()`` as h:mm:ss, or m:ss."""
    minutes, rest = divmod(int(time.monotonic() - since), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
