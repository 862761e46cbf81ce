"""The two displays of a run: a line per finished job for logs and pipes, and a live tree for terminals.

The tree is drawn by its own thread, a few times per second, so a job costs the driver no drawing.
"""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import rich.live
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.display.tree import BAR, bar, draw_arms, one_line
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State
from tune_interpreg.schedule.listener import Listener
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Job
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_STRICT, TRAIN_LOSS, VAL_ACCURACY, VAL_ADV_ACCURACY

#: The metrics in the line of a finished job, if it has them.
SUMMARY_METRICS = (TRAIN_LOSS, VAL_ACCURACY, VAL_ADV_ACCURACY, TEST_ACCURACY, TEST_STRICT)

#: Seconds between two drawings.
INTERVAL = 0.25

#: Cells of a job's title.
TITLE = 36


class Lines(Listener):
    """Prints one line per finished job."""

    def __init__(self, console: Console):
        self.console = console
        self._started = time.monotonic()

    def finish(self, job: Job, records: Sequence[Record], settled: int, total: int) -> None:
        line = f"[{_clock(self._started):>6}] {settled}/{total} {summarize(job, records)}"
        self.console.print(Text(line), soft_wrap=True)


class Live(Listener):
    """Draws the tree of arms with bars and running jobs, and prints finished jobs above it."""

    def __init__(self, console: Console, study: Study, state: Callable[[], State]):
        self.console, self.study, self.state = console, study, state
        self._running: dict[str, _JobLine] = {}
        self._finished: deque[str] = deque()
        self._started = time.monotonic()
        self._parents = graph.parents(study)
        self._live = rich.live.Live(self, console=console, auto_refresh=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw_repeatedly, daemon=True)

    def start(self, job: Job) -> None:
        self._running[job.key] = _JobLine(job, job.recipe.training.epochs if job.trains else None)

    def epoch(self, job: Job, metrics: Mapping[str, float]) -> None:
        line = self._running.get(job.key)
        if line:
            line.epoch, line.of = metrics["epoch"], metrics.get("of", line.of)
            line.loss = metrics.get(TRAIN_LOSS)

    def finish(self, job: Job, records: Sequence[Record], settled: int, total: int) -> None:
        self._running.pop(job.key, None)
        self._finished.append(summarize(job, records))

    def __enter__(self) -> Live:
        self._open()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.draw()
        self._close()

    def _open(self) -> None:
        self._live.start()

    def _close(self) -> None:
        self._live.stop()

    def draw(self) -> None:
        """Print the newly finished jobs, and the tree below them."""
        lines = [self._finished.popleft() for _ in range(len(self._finished))]
        if lines:
            self.console.print(Text("\n".join(lines)), soft_wrap=True)
        else:
            self._live.refresh()

    def _draw_repeatedly(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.draw()

    def __rich__(self) -> Tree:
        running, state = list(self._running.values()), self.state()
        leaves = {name: [line for line in running if line.job.arm == name] for name in self._parents}
        arms = {name: graph.stages_of(self.study, state, name) for name in self._parents}
        settled, total = state.settled, graph.count_parts(self.study, state)
        title = one_line(f"{self.study.name}  ").append_text(bar(settled, total, 2 * BAR))
        title.append(f" {settled}/{total}  {_clock(self._started)}")
        width, height = self.console.size
        return draw_arms(title, self._parents, arms, leaves, width, max(3, height - 2))  # room for cursor and log line


class NotebookTree(Live):
    """Draws the tree below a notebook's cell, again and again in one place."""

    def __init__(self, study: Study, state: Callable[[], State]):
        super().__init__(
            Console(file=io.StringIO(), width=100, height=60, force_jupyter=False, color_system=None), study, state
        )
        self._shown: Any = None

    def _open(self) -> None:
        from IPython.display import display

        self._shown = display(self._content(), raw=True, display_id=True)

    def _close(self) -> None:
        """The last drawing stays below the cell."""

    def draw(self) -> None:
        """Replace the tree. Finished jobs are in the store's log."""
        self._finished.clear()
        self._shown.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        with self.console.capture() as capture:
            self.console.print(self)
        return {"text/plain": capture.get()}


def make_live(console: Console, study: Study, state: Callable[[], State]) -> Live | None:
    """Return the live tree for a terminal or a notebook; None for a log or a pipe."""
    if console.is_jupyter:
        return NotebookTree(study, state)
    return Live(console, study, state) if console.is_terminal else None


@dataclass
class _JobLine:
    """The line of a running job: its bar of epochs and its last training loss."""

    job: Job
    of: float | None
    epoch: float = 0
    loss: float | None = None
    since: float = field(default_factory=time.monotonic)

    def __rich__(self) -> Text:
        line = one_line(self.job.title.removeprefix(f"{self.job.arm}: ").ljust(TITLE))
        if self.of:
            line.append(" ").append_text(bar(self.epoch, self.of, BAR)).append(f" {self.epoch:g}/{self.of:g}")
        line.append("" if self.loss is None else f"  loss {self.loss:.3g}")
        return line.append(f"  {_clock(self.since)}", "bright_black")


def summarize(job: Job, records: Sequence[Record]) -> str:
    """Return a job and its results in one line."""
    bad = [record for record in records if record["state"] in ("failed", "diverged")]
    trouble = "; ".join(f"{record['state'].upper()}: {(record['error'] or '').partition(chr(10))[0]}" for record in bad)
    if len(bad) == len(records):
        return f"{job.title}: {trouble or 'nothing was left to do'}"
    parts = [f"{name} {value:.4g}" for name, value in _means(records).items()]
    checks = [check for record in records for check in record.get("checks", ())]
    by_state = {state: [c["check"] for c in checks if c["state"] == state] for state in ("PASS", "WARN", "NONE")}
    if checks:
        parts.append(f"{len(by_state['PASS'])} passed")
    for state, verb in (("WARN", "warn"), ("NONE", "had nothing to check")):
        if by_state[state]:
            parts.append(f"{len(by_state[state])} {verb} ({', '.join(by_state[state])})")
    seconds = f"{sum(record['seconds'] for record in records):.1f} s"
    gpu_bytes = max((record.get("gpu_bytes_a_seed", 0) for record in records), default=0)
    memory = f", {gpu_bytes / 2**20:,.0f} MiB of GPU memory per seed" if gpu_bytes else ""
    state = " pruned" if any(record["state"] == "pruned" for record in records) else ""
    return f"{job.title}:{state} {', '.join(parts) or 'done'} ({seconds}{memory}){f'; {trouble}' if bad else ''}"


def _means(records: Sequence[Record]) -> dict[str, float]:
    """Return each metric's mean over the records that have it, in the order of ``SUMMARY_METRICS``."""
    values = {name: [r["metrics"][name] for r in records if name in r["metrics"]] for name in SUMMARY_METRICS}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items() if numbers}


def _clock(since: float) -> str:
    """Return the time since a ``time.monotonic()`` as h:mm:ss, or m:ss."""
    minutes, rest = divmod(int(time.monotonic() - since), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
