"""The tree of arms that `run` shows in a terminal while it works; what is settled is printed above it.

It is drawn by a thread of its own, a few times a second, whatever happens in between: an item costs the driver nothing
but a note of it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import rich.live
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.display import tree as branches
from tune_interpreg.display.lines import summary
from tune_interpreg.display.tree import Branch
from tune_interpreg.schedule import graph, stages
from tune_interpreg.schedule.graph import State
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item

#: Seconds between two drawings.
EVERY = 0.25

#: Cells of an item's words and of its bar.
WORDS, BAR = 36, 16


@dataclass
class UnderWay:
    """An item that runs: its epoch, of how many, and its last training loss."""

    item: Item
    of: float | None
    epoch: float = 0
    loss: float | None = None
    since: float = field(default_factory=time.monotonic)

    def __rich__(self) -> Text:
        line = branches.one_line(self.item.title.removeprefix(f"{self.item.arm}: ").ljust(WORDS))
        if self.of:
            line.append(" ").append_text(branches.bar(self.epoch, self.of, BAR)).append(f" {self.epoch:g}/{self.of:g}")
        line.append("" if self.loss is None else f"  loss {self.loss:.3g}")
        return line.append(f"  {clock(time.monotonic() - self.since)}", "bright_black")


class Live:
    """A tree of arms, each with its stages' bars and the items under way beneath it.

    study, state: of the dispatcher; what is settled and what runs is read off ``state``.
    """

    def __init__(self, console: Console, study: Study, state: State):
        self.console, self.study, self.state = console, study, state
        self._under_way: dict[str, UnderWay] = {}
        self._settled: deque[str] = deque()
        self._started = time.monotonic()
        self._parents = stages.parents(study)
        self._live = rich.live.Live(self, console=console, auto_refresh=False)
        self._over = threading.Event()
        self._drawing = threading.Thread(target=self._keep_fresh, daemon=True)

    # --------------------------------------------------------------- what it hears
    def start(self, item: Item) -> None:
        epochs = item.recipe.training.epochs if item.role in ("search", "repeat") else None
        self._under_way[item.key] = UnderWay(item, epochs)  # anew, where it was given back

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        if one := self._under_way.get(item.key):
            one.epoch, one.of = metrics["epoch"], metrics.get("of", one.of)
            one.loss = metrics.get("train/loss")

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        self._under_way.pop(item.key, None)
        self._settled.append(summary(item, record))

    # ------------------------------------------------------------------- drawing
    def __enter__(self) -> Live:
        self._live.start()
        self._drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._drawing.join()
        self.draw()
        self._live.stop()

    def draw(self) -> None:
        """Print what was settled since, and the tree below it."""
        if lines := [self._settled.popleft() for _ in range(len(self._settled))]:
            self.console.print(Text("\n".join(lines)), soft_wrap=True)
        else:
            self._live.refresh()

    def _keep_fresh(self) -> None:
        while not self._over.wait(EVERY):
            self.draw()

    def __rich__(self) -> Tree:
        running: defaultdict[str, list[UnderWay]] = defaultdict(list)
        for one in list(self._under_way.values()):
            running[one.item.arm].append(one)
        width, height = self.console.size
        arms = {arm: stages.stages_of(self.study, self.state, arm) for arm in self._parents}
        lines = branches.arm_lines(self._parents, arms, width)
        made = [Branch.from_stages(arm, parent, lines[arm], arms[arm], running[arm]) for arm, parent in self._parents.items()]
        return branches.draw_tree(self._title(), made, max(3, height - 2))  # room for the cursor and a line above

    def _title(self) -> Text:
        settled, total = self.state.settled, graph.count_parts(self.study, self.state)
        title = branches.one_line(f"{self.study.name}  ").append_text(branches.bar(settled, total, 2 * BAR))
        return title.append(f" {settled}/{total}  {clock(time.monotonic() - self._started)}")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
