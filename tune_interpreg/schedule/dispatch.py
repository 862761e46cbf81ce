"""The dispatcher: the next ready item of any arm, and what its result means for the rest.

It joins the graph, the searches and the store, and knows nothing of where items run: the in-process loop
and Ray Tune's searcher ask it alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from tune_interpreg import seeding
from tune_interpreg.display.lines import Display
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import Task
from tune_interpreg.schedule.inputs import Inputs
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.search.arm_search import ArmSearch
from tune_interpreg.search.journal import open_journal
from tune_interpreg.store import ledger
from tune_interpreg.store.files import Damaged
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item


class Pause(Enum):
    """Why there is no next item."""

    WAIT = "all that is open waits for items under way"
    DRAINED = "nothing is open any more"


class Dispatcher:
    """What is settled, what runs, and what comes next.

    Args:
        study: checked. store: its folder. fingerprint: of the data. say: tells the user what was damaged.
    """

    def __init__(self, study: Study, store: Store, fingerprint: str, say: Callable[[str], object] = print):
        self.study, self.store, self.say = study, store, say
        self.listener: Display | None = None  # told of all that happens from now on
        self.progress = Progress(study, store, fingerprint, say)
        self.state = self.progress.state
        self.records: dict[tuple[str, str, int], Record] = {}  # of this study, by arm, key and number
        self._searches: dict[str, ArmSearch] = {}
        self._storage: Any = None
        self._running: set[str] = set()  # keys
        self._twins: dict[str, list[Item]] = {}
        self._inputs = Inputs(store)
        records, damaged = store.read_ledger()
        begun, torn = store.read_notes()
        self._damaged = self._set_aside([*damaged, *torn])  # keys
        self._left = [(item, record) for record in records if (item := store.item_of(record))]
        self._known: dict[str, Record] = {}  # by key
        for _, record in self._left:
            self._know(record)
        self.progress.begun = self._unfinished(begun)
        self._adopt()

    # ------------------------------------------------------------------ asking
    def next(self) -> Item | Pause:
        """The next item to run, noted as begun; or why there is none."""
        while (task := self._task()) is not None:
            damaged = self._inputs.damaged(task.role, self.progress.needs_of(task))
            if damaged and self._inputs.may_remake(damaged):
                self._remake(damaged)
                continue
            item = self._item(task)
            self.progress.start(item)
            if damaged:
                self._give_up(item, damaged)
            elif known := self._result(item):
                self._settle(item, self.store.write_copy(item, known))
                self._adopt()
            elif item.key in self._running:
                self._twins.setdefault(item.key, []).append(item)
            else:
                return self._start(item)
        return Pause.WAIT if self.state.running else Pause.DRAINED

    def is_open(self) -> bool:
        """Whether anything is under way, or may start now."""
        return self.state.running > 0 or self._task() is not None

    def _task(self) -> Task | None:
        """The next task: what an earlier run began, before anything new."""
        self.progress.look()
        tasks = list(graph.ready_tasks(self.study, self.state))
        begun = set(map(self.progress.task, self.progress.begun))
        first = (task for task in tasks if task in begun)
        return next(filter(self.progress.may_start, (*first, *tasks)), None)

    def _start(self, item: Item) -> Item:
        self._running.add(item.key)
        self.store.note_start(item)
        if self.listener:
            self.listener.start(item)
        return item

    def total(self) -> int:
        """How many parts (trials, seeds, maps, checks) the study has, as far as it is known."""
        return graph.count_parts(self.study, self.state)

    def settled(self) -> int:
        """How many of them have a result."""
        return self.state.settled

    # ----------------------------------------------------------------- telling
    def epoch(self, item: Item, *reports: Mapping[str, float]) -> Mapping[str, float] | None:
        """Take reports of epochs, in order; the one at which the trial is to stop, if at any.

        After an interruption a worker tells of all epochs before, of which a pruner may not have heard.
        """
        if self.listener and reports:
            self.listener.epoch(item, reports[-1])
        if item.role != "search":
            return None
        search = self._search(item.arm)
        return next((one for one in reports if search.should_prune(item.number, int(one["epoch"]), one)), None)

    def finish(self, item: Item, record: Record) -> None:
        """Take the record that a worker has written."""
        self._settle(item, record)
        self.progress.look()
        if item.role != "search" or graph.is_search_over(self.study, self.state, item.arm):
            self._adopt()  # on one trial of a search that goes on nothing rests
        self.store.drop_checkpoint(item.key)
        if self.listener:
            self.listener.settle(item, record, self.settled(), self.total())

    def prune(self, item: Item, report: Mapping[str, float], **took: Any) -> Record:
        """Settle a trial that is stopped early, after the epoch of this report; took: ``seconds`` and ``spent``."""
        means = {name: value for name, value in report.items() if "/" in name}
        by_seed = dict.fromkeys(item.seeds, means)
        return self._write(item, ledger.make_record(item, "pruned", metrics=by_seed, epochs=int(report["epoch"]), **took))

    def recover(self, item: Item) -> bool:
        """Take the record that a worker wrote before it ended without telling so; whether there is one."""
        record = self.store.read_record(item)
        if record is None or not self.progress.takes(item, record):
            return False
        self.finish(item, record)
        return True

    def fail(self, item: Item, error: str) -> Record | None:
        """Settle an item that was given up; None where its inputs are damaged: it waits until they are made anew."""
        damaged = self._inputs.damaged(item.role, item.recipe.checked or item.recipe.maps)
        if not damaged:
            return self._write(item, ledger.make_record(item, "failed", error=error))
        if not self._inputs.may_remake(damaged):
            return self._give_up(item, damaged)
        self._remake(damaged)
        self._running.discard(item.key)
        self.progress.give_back(item)
        return None

    def _give_up(self, item: Item, damaged: Sequence[Damaged]) -> Record:
        reasons = "; ".join(f"{one.path}: {one.reason}" for one in damaged)
        error = f"{reasons}; made anew again and again, it does not stay whole: check the disk"
        return self._write(item, ledger.make_record(item, "failed", error=error))

    def _write(self, item: Item, record: Record) -> Record:
        self.store.write_record(record)
        self.finish(item, record)
        return record

    # ------------------------------------------------------------------- state
    def _adopt(self) -> None:
        """Settle all records left that belong to the study as far as it is now, prerequisites first."""
        before = None
        while (now := (len(self._left), frozenset(self.state.matched))) != before:
            before, held, self._left = now, self._left, []
            for item, record in held:
                if self.progress.takes(item, record) and self.progress.belongs(item):
                    self._settle(item, record)
                else:
                    self._left.append((item, record))
            if len(self._left) == len(held):  # searches are adopted whole before any is said to be over
                self.progress.look()

    def _settle(self, item: Item, record: Record) -> None:
        key = record["key"]
        self.progress.settle(item, record)
        self.records[item.arm, key, item.number] = record
        self._know(record)
        self._inputs.add(record)
        self._running.discard(key)
        if item.role == "search" and item.arm in self._searches:
            self._searches[item.arm].tell(record)
        for twin in self._twins.pop(key, []):
            if self.progress.takes(twin, record):
                self._settle(twin, self.store.write_copy(twin, record))
            else:
                self.progress.give_back(twin)

    def _know(self, record: Record) -> None:
        """Keep the record for items of its key; one that stopped early tells less than one that did not."""
        if record["state"] != "pruned" or record["key"] not in self._known:
            self._known[record["key"]] = record

    def _result(self, item: Item) -> Record | None:
        """The record of an equal item, if there is one and the arm takes it."""
        known = self._known.get(item.key)
        return known if known and self.progress.takes(item, known) else None

    def _unfinished(self, begun: Sequence[Item]) -> list[Item]:
        """What an earlier run began and did not settle; what it left of settled items is dropped."""
        left = [item for item in begun if not self._result(item)]
        settled = self._known.keys() - {item.key for item in left}
        for key in self.store.checkpoint_keys() & settled:  # a run that was killed may have dropped its note alone
            self.store.drop_checkpoint(key)
        return left

    # ------------------------------------------------------------------ damage
    def _set_aside(self, damaged: Sequence[Damaged]) -> set[str]:
        """Move damaged records and notes away; the keys of their items, as far as the paths tell them."""
        for one in damaged:
            self.say(f"{self.store.set_aside(one)}; its item runs again")
        return {one.path.parent.name if one.path.name == "item.json" else _key(one) for one in damaged}

    def _remake(self, damaged: Sequence[Damaged]) -> None:
        """Move damaged files away, and reopen the items that made them."""
        for one in damaged:
            told, key = self._inputs.set_aside(one)
            self.say(f"{told}; it is made anew")
            self.store.drop(key)
            self._known.pop(key, None)
            self._left = [(item, record) for item, record in self._left if item.key != key]
            for name in [name for name in self.records if name[1] == key]:
                item = self.store.item_of(self.records.pop(name))
                assert item is not None
                self.progress.reopen(item)

    # ------------------------------------------------------------------- items
    def _item(self, task: Task) -> Item:
        if task.role == "targets":
            return self.progress.maps_item(task.arm, *task.parts)
        if task.role == "checks":
            return self.progress.checks_item(task.arm, *task.parts)
        if task.role == "repeat":
            return self.progress.repeat_item(task.arm, task.parts)
        (number,) = task.parts
        same = (item for item in self.progress.begun if self.progress.task(item) == task)
        begun = next((item for item in same if self.progress.belongs(item)), None)
        before = begun.recipe.params if begun else self._proposed(task.arm, number)
        searched = self._search(task.arm).propose(number, before)
        return self.progress.trial_item(task.arm, number, searched)

    def _proposed(self, arm: str, number: int) -> Mapping[str, Scalar] | None:
        """The parameters of a trial whose record or note was damaged, where Optuna's journal still tells them."""
        told = self._search(arm).journaled.get(number, ()) if self._damaged else ()
        return next((one for one in told if self.progress.trial_item(arm, number, one).key in self._damaged), None)

    def _search(self, name: str) -> ArmSearch:
        """The arm's search, opened when first needed: a finished study never opens Optuna's journal."""
        if name not in self._searches:
            search = self.study.arms[name].search
            assert search is not None
            self._storage = self._storage or self._journal()
            self._searches[name] = ArmSearch(
                name,
                search,
                seed=seeding.number(self.study.seeds[0], "study"),
                storage=self._storage,
                target=self.progress.target(name),
                records=self.progress.settled_of(name, "search"),
            )
        return self._searches[name]

    def _journal(self) -> Any:
        try:
            return open_journal(self.store.journal)
        except Damaged as error:
            self.say(f"{self.store.set_aside(error)}; it is made anew from the ledger")
            return open_journal(self.store.journal)


def _key(damaged: Damaged) -> str:
    """The key that a record's name tells."""
    return damaged.path.stem.partition("-")[0]
