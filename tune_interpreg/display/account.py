"""Where a run's time went: how busy its workers were, with what, and how much lay outside of their work."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from tune_interpreg.display.lines import Display
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item

#: What a record's ``spent`` names, in the order in which it is told.
WORK = {
    "train": "training",
    "evaluate": "evaluation",
    "maps": "maps",
    "checks": "checks",
    "log": "TensorBoard",
    "save": "saving",
}
OTHER, OVERHEAD, WAITING = "other work", "starting, logging, scheduling", "nothing to do"


class Account:
    """A display that notes when items start and end, and passes all on to another one.

    shown: the other one. now: a clock, in seconds; the account begins when it is made.
    """

    def __init__(self, shown: Display, now: Callable[[], float] = time.monotonic):
        self.shown, self.now, self.begun = shown, now, now()
        self.workers = 0  # the most that were ever at work at once
        self.ended = self.begun  # when the last item was settled
        self.under_way = 0.0  # seconds, of all items together
        self.spent: defaultdict[str, float] = defaultdict(float)  # by kind of work
        self._first: float | None = None
        self._starts: dict[str, float] = {}  # by key

    def start(self, item: Item) -> None:
        self._starts[item.key] = self.now()
        self._first = self.now() if self._first is None else self._first
        self.workers = max(self.workers, len(self._starts))
        self.shown.start(item)

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        self.shown.epoch(item, metrics)

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        if (started := self._starts.pop(item.key, None)) is not None:
            self.ended = self.now()
            self._take(record, self.ended - started)
        self.shown.settle(item, record, settled, total)

    def _take(self, record: Record, took: float) -> None:
        """Count what an item did while it was under way; what it did in an earlier run is left out, in proportion."""
        told, whole = record.get("spent") or {}, record["seconds"]
        spent = {**told, OTHER: max(0.0, whole - sum(told.values()))}
        share = min(1.0, took / whole) if whole else 0.0
        self.under_way += took
        for what, seconds in spent.items():
            self.spent[what] += seconds * share

    def shares(self) -> dict[str, float]:
        """Fractions of the workers' time: of each kind of work, of what surrounds it, and of idleness; their sum is 1.

        What surrounds the work is what an item was under way beyond it, and all before the first item. Idle is a worker
        for which there was no item: all that was open waited for others.
        """
        whole = (self.ended - self.begun) * self.workers
        if self._first is None or not whole:
            return {}
        start = (self._first - self.begun) * self.workers
        around = start + self.under_way - sum(self.spent.values())
        work = {WORK.get(what, what): self.spent[what] for what in (*WORK, *(self.spent.keys() - WORK.keys()))}
        idle = max(0.0, whole - start - self.under_way)
        seconds = {what: one for what, one in work.items() if one} | {OVERHEAD: around, WAITING: idle}
        return {what: one / sum(seconds.values()) for what, one in seconds.items()}

    def told(self) -> str | None:
        """One line for the end of `run`; None where nothing ran."""
        shares = self.shares()
        if not shares:
            return None
        work = {what: share for what, share in shares.items() if what not in (OVERHEAD, WAITING)}
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        parts = [f"{share:.0%} {what}" for what, share in shares.items() if share >= 0.005]
        return f"{format_duration(self.ended - self.begun)} on {workers}: {sum(work.values()):.0%} at work; {', '.join(parts)}"


def format_duration(seconds: float) -> str:
    """In words, to the precision that matters: 3.4 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
