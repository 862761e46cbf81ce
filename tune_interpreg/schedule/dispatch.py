"""The dispatcher: hands out the next ready job of any arm, and takes the records of its items.

It joins the graph, the searches and the store. It does not know where jobs run: the loop in this process and Ray Tune's
searcher use it alike.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from tune_interpreg import seeding
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.schedule.listener import Listener
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.search.arm_search import ArmSearch
from tune_interpreg.search.journal import open_journal
from tune_interpreg.search.target import check_loss
from tune_interpreg.store import ledger
from tune_interpreg.store.files import verify_checksum
from tune_interpreg.store.store import FINAL, Damaged, Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item, Job, Train
from tune_interpreg.study.setting import arm_setting, read_params


class Pause(Enum):
    """The reason why there is no next job."""

    WAIT = "all open work waits for running jobs"
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
        self._running: dict[str, list[Record]] = {}  # key of a job → its records so far
        self._making: dict[str, str] = {}  # key of a job → key of the maps that it makes first
        self._waiting: list[Job] = []  # jobs that wait for a running job of the same key, or that makes their maps
        self._dropped: list[Record] = []  # of items that run again because of a damaged file
        self._load()
        while self._set_aside_damaged_files():
            self._load()

    @property
    def state(self) -> State:
        return self.progress.state

    # -------------------------------------------------------------------- next job
    def next(self) -> Job | Pause:
        """Return the next job to run, noted in the store as started, or why there is none."""
        while (task := self._next_task()) is not None:
            before = self.settled()
            job = self._make_job(task)
            if job is None:  # records answered everything
                if self.settled() == before:
                    raise RuntimeError(f"{task} is ready, but nothing of it is missing")
                continue
            self.progress.start(job)
            keys = {job.key} | ({job.maps.key} if job.maps else set())
            if keys & (self._running.keys() | set(self._making.values())):
                self._waiting.append(job)
                continue
            self._running[job.key] = []
            if job.maps:
                self._making[job.key] = job.maps.key
            if self._damaged_among(self._inputs_of(job)):
                self.fail(job, "")
                continue
            self.store.note_start(job)
            for listener in self.listeners:
                listener.start(job)
            return job
        return Pause.WAIT if self.state.running else Pause.DRAINED

    def is_open(self) -> bool:
        """Return whether a job runs or can start now."""
        return self.state.running > 0 or self._next_task() is not None

    def total(self) -> int:
        """Return the number of parts (trials, seeds, maps, judged models) of the study, as far as it is known."""
        return graph.count_parts(self.study, self.state)

    def settled(self) -> int:
        """Return the number of parts that have a result."""
        return self.state.settled

    def _next_task(self) -> Task | None:
        """Return the next task: interrupted work before anything new."""
        tasks = list(graph.ready_tasks(self.study, self.state))
        interrupted = {Task.from_job(job) for job in self.progress.notes}
        tasks.sort(key=lambda task: task not in interrupted)
        return next((task for task in tasks if self.progress.can_start(task)), None)

    def _make_job(self, task: Task) -> Job | None:
        """Return the job of a task without the items that have a record; None if all have one."""
        params = self._propose(task) if task.stage == "search" else None
        models = self.progress.trainings_of(task, params)
        if task.stage in ("search", "repeats"):
            untrained = [model for model in models if not self._share(task, model)]
            if untrained:
                has_pruner = task.stage == "search" and self._search(task.arm).pruning is not None
                return self.progress.job_to_train(task, models if has_pruner else untrained)  # it reads their mean
            self._update(task.arm)
            if task.stage == "repeats" or not self.state.stage_of(task).is_open(task.parts[0]):
                return None  # judgments of repeats are a task of their own
        return self.progress.job_without_training(task, models)

    def _share(self, task: Task, model: Train) -> bool:
        """Return whether a record of an equal training is a result for the task; copy it if it is another's.

        A trial with a pruner takes no other arm's training: that it has ended first would save it from the pruner.
        """
        number = task.parts[0] if task.stage == "search" else None
        has_pruner = number is not None and self._search(task.arm).pruning is not None
        results = [
            record
            for record in self._trainings[model.key]
            if (record["arm"] == task.arm or not has_pruner)
            and (record["state"] != "pruned" or (number is not None and self.progress.accepts(record, task.arm)))
        ]
        if not results:
            return False
        ours = [record for record in results if record["arm"] == task.arm and number in (None, record["number"])]
        maps = model.recipe.maps.model_dump(mode="json") if model.recipe.maps else None
        if maps and maps["settings"]:  # an equal training of a study that did not search them has no such note
            ours = [record for record in ours if record["recipe"]["maps"] == maps]
        if not ours:
            best = next((record for record in results if record["state"] in FINAL), results[-1])
            best = best | {"recipe": best["recipe"] | {"maps": maps}}
            self._take(self.store.write_copy(best, task.arm, number))
        return True

    # ---------------------------------------------------------------------- results
    def epoch(self, job: Job, *reports: Mapping[str, float]) -> Mapping[str, float] | None:
        """Take reports of epochs, in order; return the one at which the arm's pruner stops the trial, if it does.

        After an interruption a worker reports all earlier epochs again, because the pruner may have missed some.
        """
        for listener in self.listeners if reports else ():
            listener.epoch(job, reports[-1])
        if job.number is not None and job.trains:
            search = self._search(job.arm)
            for report in reports:
                if search.should_prune(job.number, int(report["epoch"]), report):
                    return report
        return None

    def take(self, job: Job, records: Iterable[Record]) -> None:
        """Take records that the job's worker has written."""
        before = self._running[job.key]
        new = [record for record in records if record["key"] not in {other["key"] for other in before}]
        before += new
        for record in new:
            self._take(record)
        if new:
            self._update(job.arm)

    def end(self, job: Job) -> None:
        """Note that a job does not run any more; what it lacks runs later, as another job."""
        records = self._running.pop(job.key)
        self._making.pop(job.key, None)
        self.progress.stop(job)
        for waiting in self._waiting:
            self.progress.stop(waiting)
        self._waiting.clear()
        self._update(job.arm)
        self.store.drop_checkpoint(job.key)
        self.progress.notes = [note for note in self.progress.notes if note.key != job.key]
        for listener in self.listeners:
            listener.finish(job, records, self.settled(), self.total())

    def prune(
        self, job: Job, report: Mapping[str, float], seconds: float = 0.0, spent: Mapping[str, float] | None = None
    ) -> None:
        """Settle a trial that is stopped after the epoch of this report, with the time of all its seeds."""
        metrics = {name: value for name, value in report.items() if "/" in name}
        pruning, share = self._search(job.arm).pruning, 1 / len(job.models)
        curve = {"curve": pruning.list_reports(job.number)} if pruning and job.number is not None else {}
        for model in job.models:
            record = ledger.make_record(
                job,
                model,
                "pruned",
                metrics=metrics,
                epochs=int(report["epoch"]),
                seconds=share * seconds,
                spent={kind: share * duration for kind, duration in (spent or {}).items()},
            )
            self._write(job, record | curve)
        self.end(job)

    def recover(self, job: Job) -> bool:
        """Take the records of a worker that wrote them and died before it reported; return whether none is missing."""
        missing = self._missing(job)
        records = [self.store.read_record(job.arm, item) for item in missing]
        self.take(job, [record for record in records if record is not None and record["state"] in FINAL])
        if self._missing(job):
            return False
        self.end(job)
        return True

    def fail(self, job: Job, error: str) -> None:
        """Give up the next item of a job. If a file that the job reads is damaged, the error says so."""
        error = "; ".join(map(str, self._damaged_among(self._inputs_of(job)))) or error
        missing = self._missing(job)
        trainings = [item for item in missing if isinstance(item, Train)]
        for item in trainings or missing[:1]:
            self._write(job, ledger.make_record(job, item, "failed", error=error))
        self.end(job)

    def _missing(self, job: Job) -> list[Item]:
        """Return the items of a running job that lack a record, without judgments of models that were not trained."""
        states = {record["key"]: record["state"] for record in self._running[job.key]}
        trained = [model.key for model in job.models if states.get(model.key, "done") == "done"]
        items = [item for item in job.items if item.kind != "judge" or item.model in trained]
        return [item for item in items if item.key not in states]

    def _write(self, job: Job, record: Record) -> None:
        self.store.write_record(record)
        self.take(job, [record])

    def _take(self, record: Record) -> None:
        """Take a record into the ledger of this process."""
        self.records.append(record)
        self.progress.add(record)
        if record["kind"] == "train":
            check_loss(self.study, record)
            self._trainings[record["key"]].append(record)
        self._files.setdefault(record["key"], {}).update(self._files_of(record))

    def _update(self, arm: str) -> None:
        """Settle what follows from the new records of an arm."""
        self.progress.update()
        if arm in self._searches and graph.is_search_over(self.study, self.state, arm):
            self._searches[arm].finish()

    # --------------------------------------------------------------- state of the study
    def _load(self) -> None:
        """Read the store, and settle what belongs to the study as it is now."""
        records, damaged = self.store.read_ledger()
        notes, damaged_notes = self.store.read_notes()
        for error in (*damaged, *damaged_notes):
            self.say(f"{self.store.set_aside(error)}; its item runs again")
        dropped = {record["key"] for record in self._dropped}
        records = [record for record in records if record["key"] not in dropped]
        self.records = records  # the whole ledger
        self._trainings: defaultdict[str, list[Record]] = defaultdict(list)  # by key
        self._files: dict[str, dict[Path, str]] = {}  # key of an item → its files and their checksums
        for record in records:
            if record["kind"] == "train":
                self._trainings[record["key"]].append(record)
            self._files.setdefault(record["key"], {}).update(self._files_of(record))
        unfinished = [job for job in notes if self._is_unfinished(job, {record["key"] for record in records})]
        for key in self.store.checkpoint_keys() - {job.key for job in unfinished}:
            if key in self._files or key in {job.key for job in notes}:
                self.store.drop_checkpoint(key)
        self.progress = Progress(self.study, self.store, records, unfinished, self.fingerprint, self.say)
        for record in self.progress.counting_records():
            if record["kind"] == "train":
                check_loss(self.study, record)

    def _is_unfinished(self, job: Job, settled: set[str]) -> bool:
        """Return whether the first items of a note have no record: later ones run as another job."""
        first = job.models if job.trains else job.work
        return not all(item.key in settled for item in first)

    # ------------------------------------------------------------------ damaged files
    def _set_aside_damaged_files(self) -> bool:
        """Set damaged models and maps aside that open work reads, and the records of their makers and failed readers.

        Return whether there were any.
        """
        damaged: dict[Path, Damaged] = {}
        keys = set()
        for key in self.progress.find_readers():
            errors = self._damaged_among([key])
            damaged |= {error.path: error for error in errors}
            if errors:
                keys.add(key)
        if not damaged:
            return False
        records = self.progress.counting_records()
        keys |= {record["key"] for record in records if self._failed_on(record, keys)}
        for error in damaged.values():
            self.say(f"{self.store.set_aside(error)}; it is made again")
        for key in sorted(keys):
            self.store.set_aside_records(key)
        self._dropped += [record for record in records if record["key"] in keys]
        return True

    def _failed_on(self, record: Record, damaged: set[str]) -> bool:
        return record["state"] == "failed" and not damaged.isdisjoint(ledger.find_inputs(record))

    def _inputs_of(self, job: Job) -> set[str]:
        """Return the keys of the items with the files that a job reads."""
        items = (*(job.maps.items if job.maps else ()), *job.items)
        return {key for item in items for key in ledger.find_inputs(item.model_dump(mode="json"))}

    def _files_of(self, record: Record) -> dict[Path, str]:
        """Return the files that a record's item made, and their checksums."""
        return {self.store.path / name: checksum for name, checksum in record["files"].items()}

    def _damaged_among(self, keys: Iterable[str]) -> list[Damaged]:
        """Return the damaged or missing files among those that these items made."""
        damaged = []
        for key in keys:
            for path, checksum in self._files.get(key, {}).items():
                try:
                    verify_checksum(path, checksum)
                except Damaged as error:
                    damaged.append(error)
        return damaged

    # --------------------------------------------------------------------- searches
    def _propose(self, task: Task) -> Mapping[str, Scalar]:
        """Return the parameters of a trial: those that an earlier run proposed, else new ones."""
        (number,) = task.parts
        return self._search(task.arm).propose(number, self._earlier_proposal(task, number))

    def _earlier_proposal(self, task: Task, number: int) -> Mapping[str, Scalar] | None:
        """Return the parameters of a trial that an earlier run started, from its training's record or its note."""
        for training in self.progress.trainings_of_trial(task.arm, number):
            return self._read_searched(task.arm, training["recipe"])
        notes = (job for job in self.progress.notes if Task.from_job(job) == task and self.progress.is_wanted(job))
        recipes = (job.recipe.model_dump(mode="json") for job in notes)
        return next((self._read_searched(task.arm, recipe) for recipe in recipes), None)

    def _read_searched(self, name: str, recipe: Mapping[str, Any]) -> Mapping[str, Scalar]:
        search = self.study.arms[name].search
        return read_params(recipe, search.ranges) if search else {}

    def _search(self, name: str) -> ArmSearch:
        """Return the arm's search, opened when first needed."""
        if name not in self._searches:
            search = self.study.arms[name].search
            if search is None:
                raise RuntimeError(f"{name} has no search")
            self._searches[name] = ArmSearch(
                name,
                search,
                seed=seeding.number(self.study.seeds[0], "study"),
                storage=self._storage,
                target=self.progress.target(name),
                bounds=self.progress.bounds(name),
                trials=self.progress.trials[name],
                epochs=arm_setting(self.study, name, search.fidelity).training.epochs,
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
