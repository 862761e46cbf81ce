"""The dispatcher: hands out the next ready item of any arm, and takes the results.

It joins the graph, the searches and the store. It does not know where items run: the loop in this process and Ray
Tune's searcher use it alike.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from tune_interpreg import seeding
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import Task
from tune_interpreg.schedule.listener import Listener
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.search.arm_search import ArmSearch
from tune_interpreg.search.journal import open_journal
from tune_interpreg.search.target import check_loss
from tune_interpreg.store import ledger
from tune_interpreg.store.files import verify_checksum
from tune_interpreg.store.store import Damaged, Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item


class Pause(Enum):
    """The reason why there is no next item."""

    WAIT = "all open work waits for running items"
    DRAINED = "no work is open"


class Dispatcher:
    """The driver's side of a study: what is settled, what runs, and what comes next.

    Files that open work reads are verified here, at the start. A damaged file is set aside, and its item runs again.
    A file that is damaged later fails the items that read it.

    Args:
        fingerprint: of the data.
        say: receives a line about each damaged file.
    """

    def __init__(self, study: Study, store: Store, fingerprint: str, say: Callable[[str], object] = print):
        self.study, self.store, self.fingerprint, self.say = study, store, fingerprint, say
        self.listeners: list[Listener] = []  # receive the events of the run
        self._searches: dict[str, ArmSearch] = {}
        self._running: set[str] = set()  # keys
        self._duplicates: dict[str, list[Item]] = {}  # items that wait for a running item of the same key
        self._damaged: set[str] = set()  # keys of items with a damaged record or note
        self._dropped: set[str] = set()  # keys of items that run again because of a damaged model or maps
        self._load()
        while self._set_aside_damaged_files():
            self._load()

    # -------------------------------------------------------------------- next item
    def next(self) -> Item | Pause:
        """Return the next item to run, noted in the store as started, or why there is none."""
        while (task := self._next_task()) is not None:
            item = self._make_item(task)
            self.progress.start(item)
            if (record := self._result_of(item)) is not None:
                self._settle(item, self.store.write_copy(item, record))
                self._adopt()
            elif item.key in self._running:
                self._duplicates.setdefault(item.key, []).append(item)
            elif self._damaged_among(self._input_files(item)):
                self.fail(item, "")
            else:
                self._running.add(item.key)
                self.store.note_start(item)
                for listener in self.listeners:
                    listener.start(item)
                return item
        return Pause.WAIT if self.state.running else Pause.DRAINED

    def is_open(self) -> bool:
        """Return whether an item runs or can start now."""
        return self.state.running > 0 or self._next_task() is not None

    def total(self) -> int:
        """Return the number of parts (trials, seeds, maps, checks) of the study, as far as it is known."""
        return graph.count_parts(self.study, self.state)

    def settled(self) -> int:
        """Return the number of parts that have a result."""
        return self.state.settled

    def _next_task(self) -> Task | None:
        """Return the next task: interrupted work before anything new."""
        self.progress.update_matches()
        tasks = list(graph.ready_tasks(self.study, self.state))
        interrupted = {Task.from_item(item) for item in self.progress.interrupted}
        tasks.sort(key=lambda task: task not in interrupted)
        return next((task for task in tasks if self.progress.can_start(task)), None)

    # ---------------------------------------------------------------------- results
    def epoch(self, item: Item, *reports: Mapping[str, float]) -> Mapping[str, float] | None:
        """Take reports of epochs, in order; return the one at which the arm's pruner stops the trial, if it does.

        After an interruption a worker reports all earlier epochs again, because the pruner may have missed some.
        """
        for listener in self.listeners if reports else ():
            listener.epoch(item, reports[-1])
        if item.role == "search":
            search = self._search(item.arm)
            for report in reports:
                if search.should_prune(item.number, int(report["epoch"]), report):
                    return report
        return None

    def finish(self, item: Item, record: Record) -> None:
        """Take the record that a worker has written."""
        self._settle(item, record)
        self.progress.update_matches()
        # Nothing depends on a trial before its search is over.
        if item.role != "search" or graph.is_search_over(self.study, self.state, item.arm):
            self._adopt()
        self.store.drop_checkpoint(item.key)
        for listener in self.listeners:
            listener.settle(item, record, self.settled(), self.total())

    def prune(self, item: Item, report: Mapping[str, float], **times: Any) -> Record:
        """Settle a trial that is stopped after the epoch of this report. ``times``: ``seconds`` and ``spent``."""
        metrics = {name: value for name, value in report.items() if "/" in name}
        by_seed = dict.fromkeys(item.seeds, metrics)
        record = ledger.make_record(item, "pruned", metrics=by_seed, epochs=int(report["epoch"]), **times)
        return self._write(item, record)

    def recover(self, item: Item) -> bool:
        """Take the record of a worker that wrote it and died before it reported; return whether there is one."""
        record = self.store.read_record(item)
        if record is None or not self.progress.accepts_state(item.arm, record["state"]):
            return False
        self.finish(item, record)
        return True

    def fail(self, item: Item, error: str) -> Record:
        """Settle an item that is given up. If a file that it reads is damaged, its error says so."""
        error = "; ".join(map(str, self._damaged_among(self._input_files(item)))) or error
        return self._write(item, ledger.make_record(item, "failed", error=error))

    def _write(self, item: Item, record: Record) -> Record:
        self.store.write_record(record)
        self.finish(item, record)
        return record

    # --------------------------------------------------------------- state of the study
    def _load(self) -> None:
        """Read the store, and settle what belongs to the study as it is now."""
        records, damaged = self.store.read_ledger()
        notes, damaged_notes = self.store.read_notes()
        for error in (*damaged, *damaged_notes):
            self.say(f"{self.store.set_aside(error)}; its item runs again")
            self._damaged.add(self.store.key_of(error.path))
        self.progress = Progress(self.study, self.store, self.fingerprint, self.say)
        self.state = self.progress.state
        self.records: dict[tuple[str, str, int], Record] = {}  # of this study, by arm, key and number
        self._checksums: dict[Path, str] = {}  # of the files that settled items made
        self._results: dict[str, Record] = {}  # by key
        self._pending: list[tuple[Item, Record]] = []
        for record in records:
            item = self.store.item_of(record)
            if item and item.key not in self._dropped:
                self._pending.append((item, record))
                self._remember(record)
        self.progress.interrupted = self._unfinished(notes)
        self._adopt()

    def _adopt(self) -> None:
        """Settle the stored records that belong to the study as it is now, prerequisites first."""
        before = None
        while before != (now := (len(self._pending), frozenset(self.state.matched))):
            before, pending, self._pending = now, self._pending, []
            for item, record in pending:
                if self.progress.belongs(item, record):
                    self._settle(item, record)
                else:
                    self._pending.append((item, record))
            if len(self._pending) == len(pending):  # a search is settled as a whole before its match is judged
                self.progress.update_matches()

    def _settle(self, item: Item, record: Record) -> None:
        check_loss(self.study, item, record)
        self.progress.settle(record)
        self.records[item.arm, record["key"], item.number] = record
        self._remember(record)
        self._checksums |= self._files_of(record)
        self._running.discard(record["key"])
        if item.role == "search" and item.arm in self._searches:
            self._searches[item.arm].tell(record)
        for duplicate in self._duplicates.pop(record["key"], []):
            if self.progress.accepts_state(duplicate.arm, record["state"]):
                self._settle(duplicate, self.store.write_copy(duplicate, record))
            else:
                self.progress.requeue(duplicate)

    def _remember(self, record: Record) -> None:
        """Keep the record for other items of the same key; a pruned trial never replaces a whole one."""
        if record["state"] != "pruned" or record["key"] not in self._results:
            self._results[record["key"]] = record

    def _result_of(self, item: Item) -> Record | None:
        """Return the record of an equal item, if it can be a result of this one."""
        record = self._results.get(item.key)
        return record if record and self.progress.accepts_state(item.arm, record["state"]) else None

    def _unfinished(self, notes: Sequence[Item]) -> list[Item]:
        """Return the items that an earlier run started and did not settle; drop the checkpoints of settled ones."""
        unfinished = [item for item in notes if self._result_of(item) is None]
        settled = self._results.keys() - {item.key for item in unfinished}
        for key in self.store.checkpoint_keys() & settled:  # a killed run may have deleted the note only
            self.store.drop_checkpoint(key)
        return unfinished

    # ------------------------------------------------------------------ damaged files
    def _set_aside_damaged_files(self) -> bool:
        """Set damaged models and maps aside that open work reads, and the records of their makers and failed readers.

        Return whether there were any.
        """
        damaged: dict[Path, Damaged] = {}
        keys = set()
        for record in self.records.values():
            errors = self._damaged_among(self._files_of(record)) if self.progress.is_read(record) else []
            damaged |= {error.path: error for error in errors}
            if errors:
                keys.add(record["key"])
        if not damaged:
            return False
        for record in self.records.values():
            item = self.store.item_of(record) if record["state"] == "failed" else None
            if item and not damaged.keys().isdisjoint(self._input_files(item)):
                keys.add(item.key)
        for error in damaged.values():
            self.say(f"{self.store.set_aside(error)}; it is made again")
        for key in sorted(keys):
            self.store.set_aside_records(key)
        self._dropped |= keys
        return True

    def _input_files(self, item: Item) -> tuple[Path, ...]:
        """Return the files of other items that an item reads."""
        return self.store.input_files(item.role, item.recipe.checked or item.recipe.maps)

    def _files_of(self, record: Record) -> dict[Path, str]:
        """Return the files that a record's item made, and their checksums."""
        return {self.store.path / name: checksum for name, checksum in record.get("files", {}).items()}

    def _damaged_among(self, paths: Iterable[Path]) -> list[Damaged]:
        """Return the damaged or missing files among those that settled items made."""
        damaged = []
        for path in paths:
            try:
                if path in self._checksums:
                    verify_checksum(path, self._checksums[path])
            except Damaged as error:
                damaged.append(error)
        return damaged

    # ------------------------------------------------------------------------ items
    def _make_item(self, task: Task) -> Item:
        if task.role != "search":
            return self.progress.item_for(task)
        params = self._search(task.arm).propose(task.parts[0], self._earlier_proposal(task))
        return self.progress.item_for(task, params)

    def _earlier_proposal(self, task: Task) -> Mapping[str, Scalar] | None:
        """Return the parameters of a trial that an earlier run proposed, from its note or from Optuna's journal."""
        for item in self.progress.interrupted:
            if Task.from_item(item) == task and self.progress.belongs(item):
                return item.recipe.params
        if self._damaged:
            for params in self._search(task.arm).journaled.get(task.parts[0], ()):
                if self.progress.item_for(task, params).key in self._damaged:
                    return params
        return None

    def _search(self, name: str) -> ArmSearch:
        """Return the arm's search, opened when first needed."""
        if name not in self._searches:
            search = self.study.arms[name].search
            assert search is not None
            self._searches[name] = ArmSearch(
                name,
                search,
                seed=seeding.number(self.study.seeds[0], "study"),
                storage=self._storage,
                target=self.progress.target(name),
                records=self.progress.records_of(name, "search"),
            )
        return self._searches[name]

    @cached_property
    def _storage(self) -> Any:
        """Optuna's journal, which a finished study never opens."""
        try:
            return open_journal(self.store.journal)
        except Damaged as error:
            self.say(f"{self.store.set_aside(error)}; it is made again from the ledger")
            return open_journal(self.store.journal)
