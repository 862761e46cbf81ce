"""The dispatcher: the next ready item of any arm, and what its result means for the rest.

It joins the graph, the searches and the store, and knows nothing of where items run: the in-process loop
and Ray Tune's searcher ask it alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from tune_interpreg import graph, ledger, seeding
from tune_interpreg.config import Study
from tune_interpreg.display import Display
from tune_interpreg.graph import Task
from tune_interpreg.items import Item
from tune_interpreg.progress import Progress
from tune_interpreg.search import ArmSearch, journal
from tune_interpreg.store import Record, Store


class Pause(Enum):
    """Why there is no next item."""

    WAIT = "all that is open waits for items under way"
    DRAINED = "nothing is open any more"


class Dispatcher:
    """What is settled, what runs, and what comes next.

    Args:
        study: checked. store: its folder. fingerprint: of the data.
    """

    def __init__(self, study: Study, store: Store, fingerprint: str):
        self.study, self.store = study, store
        self.display: Display | None = None  # told of all that happens from now on
        self.drained = False  # whether the last call of ``next`` found nothing open
        self.progress = Progress(study, store, fingerprint)
        self.state = self.progress.state
        self.records: dict[tuple[str, str, int], Record] = {}  # of this study, by arm, key and number
        self._searches: dict[str, ArmSearch] = {}
        self._storage: Any = None
        self._running: set[str] = set()  # keys
        self._twins: dict[str, list[Item]] = {}
        held = [(item, record) for record in store.records() if (item := store.item(record))]
        self._known = {item.key: record for item, record in held}
        self._left = held
        self._adopt()
        self._begun = self._unfinished()

    # ------------------------------------------------------------------ asking
    def next(self) -> Item | Pause:
        """The next item to run, noted as begun; or why there is none."""
        while (task := self._task()) is not None:
            item = self._item(task)
            self.progress.start(item)
            if item.key in self._known:
                self._settle(item, self.store.write_twin(item, self._known[item.key]))
                self._adopt()
            elif item.key in self._running:
                self._twins.setdefault(item.key, []).append(item)
            else:
                return self._start(item)
        self.drained = not self.state.under_way
        return Pause.DRAINED if self.drained else Pause.WAIT

    def _task(self) -> Task | None:
        """The next task: what an earlier run began, before anything new."""
        self.progress.look()
        tasks = list(graph.ready(self.study, self.state))
        begun = {Task(item.arm, item.role, item.parts) for item in self._begun}
        return next((task for task in tasks if task in begun), tasks[0] if tasks else None)

    def _start(self, item: Item) -> Item:
        self._running.add(item.key)
        self.store.begin(item)
        if self.display:
            self.display.start(item)
        return item

    def total(self) -> int:
        """How many parts (trials, seeds, maps) the study has, as far as it is known."""
        return graph.total(self.study, self.state)

    def settled(self) -> int:
        """How many of them have a result."""
        return self.state.settled

    # ----------------------------------------------------------------- telling
    def epoch(self, item: Item, metrics: Mapping[str, float]) -> bool:
        """Take an epoch's report; True asks to stop the trial."""
        if self.display:
            self.display.epoch(item, metrics)
        if item.role != "search":
            return False
        return self._search(item.arm).should_prune(item.number, int(metrics["epoch"]), metrics)

    def finish(self, item: Item, record: Record) -> None:
        """Take the record that a worker has written."""
        self._settle(item, record)
        self._adopt()
        self.store.end(item)
        if self.display:
            self.display.settle(item, record, self.settled(), self.total())

    def prune(self, item: Item, metrics: Mapping[str, float], seconds: float = 0.0) -> Record:
        """Settle a trial that was stopped early."""
        means = {name: value for name, value in metrics.items() if "/" in name}
        by_seed = dict.fromkeys(item.seeds, means)
        record = ledger.record(item, "pruned", metrics=by_seed, epochs=int(metrics["epoch"]), seconds=seconds)
        return self._write(item, record)

    def fail(self, item: Item, error: str) -> Record:
        """Settle an item that was given up."""
        return self._write(item, ledger.record(item, "failed", error=error))

    def _write(self, item: Item, record: Record) -> Record:
        self.store.write_record(record)
        self.finish(item, record)
        return record

    # ------------------------------------------------------------------- state
    def _adopt(self) -> None:
        """Settle all records left that belong to the study as far as it is now, prerequisites first."""
        before = (-1, -1)
        while (now := (len(self._left), len(self.state.found))) != before:
            before, held, self._left = now, self._left, []
            for item, record in held:
                if self.progress.belongs(item):
                    self._settle(item, record)
                else:
                    self._left.append((item, record))
            if len(self._left) == len(held):  # searches are adopted whole before any is said to be over
                self.progress.look()

    def _settle(self, item: Item, record: Record) -> None:
        self.progress.settle(item, record)
        self.records[item.arm, item.key, item.number] = self._known[item.key] = record
        self._running.discard(item.key)
        if item.role == "search" and item.arm in self._searches:
            self._searches[item.arm].tell(record)
        for twin in self._twins.pop(item.key, []):
            self._settle(twin, self.store.write_twin(twin, record))

    def _unfinished(self) -> list[Item]:
        """What an earlier run began and did not settle; what it left of settled items is dropped."""
        begun = self.store.begun()
        for item in begun:
            if item.key in self._known:
                self.store.end(item)
        return [item for item in begun if item.key not in self._known]

    # ------------------------------------------------------------------- items
    def _item(self, task: Task) -> Item:
        if task.role == "targets":
            return self.progress.maps_item(task.arm, *task.parts)
        if task.role == "repeat":
            return self.progress.repeat_item(task.arm, task.parts)
        (number,) = task.parts
        same = (item for item in self._begun if Task(item.arm, item.role, item.parts) == task)
        begun = next((item for item in same if self.progress.belongs(item)), None)
        searched = self._search(task.arm).propose(number, begun.recipe.params if begun else None)
        return self.progress.trial_item(task.arm, number, searched)

    def _search(self, name: str) -> ArmSearch:
        """The arm's search, opened when first needed: a finished study never opens Optuna's journal."""
        if name not in self._searches:
            search = self.study.arms[name].search
            assert search is not None
            self._storage = self._storage or journal(self.store.journal)
            self._searches[name] = ArmSearch(
                name,
                search,
                seed=seeding.number(self.study.seeds[0], "study"),
                storage=self._storage,
                target=self.progress.target(name),
                records=self.progress.settled_of(name, "search"),
            )
        return self._searches[name]
