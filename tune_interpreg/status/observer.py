"""Read the progress of a study from its store, at any time and from any machine that sees the folder.

The notes of started jobs tell what runs, and their records and last checkpoints tell how far each job is.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.search.choice import best_trial, read_choice
from tune_interpreg.search.target import Target
from tune_interpreg.status.facts import (
    ArmStatus,
    BestTrial,
    DriverStatus,
    MatchStatus,
    RunningJob,
    Status,
    TriedStrength,
    Trouble,
)
from tune_interpreg.status.remaining import estimate_remaining
from tune_interpreg.store import lock
from tune_interpreg.store.files import Damaged, raise_refused
from tune_interpreg.store.store import Record, Store, read_record_file
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Job, StageName
from tune_interpreg.study.measures import ChecksMeasure
from tune_interpreg.study.metric_names import TRAIN_LOSS
from tune_interpreg.study.setting import read_params
from tune_interpreg.study.space import Search

#: Longest error, in characters.
ERROR_WIDTH = 160

#: Fields of a choice in the status of its match.
CHOICE_FIELDS = ("target", "tolerance", "params", "low", "high", "feasible", "reason")


class Observer:
    """Reads the status of a store, repeatedly if needed: a record is parsed again only if its file has changed."""

    def __init__(self, store: Store):
        self.store = store
        self._parse = cache(lambda path, stamp: read_record_file(path))

    def read_status(self) -> Status:
        """Return the status as it is now.

        Raises:
            StoreError: the folder is no store, or cannot be read.
            Damaged: the study in it cannot be read.
        """
        with raise_refused(self.store.path):
            study, (started, damaged) = self.store.load_study(), self.store.read_notes()
            # Read records after the notes: a job that ends in between then appears twice rather than never.
            records, damaged_records = self.store.read_ledger(self._read_record)
            present = [error for error in damaged + damaged_records if error.path.exists()]
            return _Snapshot(self.store, study, started, records, present).status()

    def _read_record(self, path: Path) -> Record:
        try:
            info = path.stat()
        except FileNotFoundError:  # set aside just now
            raise Damaged(path, "is missing") from None
        return self._parse(path, (info.st_mtime_ns, info.st_ino, info.st_size))


class _Snapshot:
    """A store at one moment."""

    def __init__(
        self, store: Store, study: Study, started: Sequence[Job], records: Sequence[Record], damaged: list[Damaged]
    ):
        self.store, self.study, self.driver, self.damaged = store, study, _read_driver(store), damaged
        choices: dict[str, dict[str, Any]] = {}
        for name in study.arms:
            try:
                if choice := read_choice(store, name):
                    choices[name] = choice.model_dump(mode="json")
            except Damaged as error:
                damaged.append(error)
        self.current = Current(study, records, choices)
        self.state = self.current.state
        settled = {(record["arm"], record["key"]) for record in records}
        self.running: list[RunningJob] = []
        self.interrupted: list[RunningJob] = []
        for job in started:
            recorded = {item.key for item in job.items if (job.arm, item.key) in settled}
            if len(recorded) == len(job.items):
                continue
            is_of_driver = _mtime(store.note_file(job.key)) >= _mtime(store.driver_file)
            if self.driver.alive is not False and is_of_driver:
                self.current.start(job)
                self.running.append(self._describe(job, recorded))
            else:
                self.interrupted.append(self._describe(job, recorded))
        self.tasks = list(graph.ready_tasks(study, self.state))
        self.blocked = graph.blocked_arms(study, self.state)

    def _describe(self, job: Job, recorded: set[str]) -> RunningJob:
        worker = self.store.read_worker(job.key)
        if worker.get("driver") != self.store.read_driver().get("id"):
            worker = {}  # of an earlier driver
        return RunningJob(
            name=job.title,
            **job.model_dump(include={"arm", "stage", "number"}),
            seeds=job.seeds,
            **read_checkpoint(self.store, job, recorded),
            host=worker.get("host"),
            pid=worker.get("pid"),
        )

    # -------------------------------------------------------------------- status
    def status(self) -> Status:
        arms = tuple(self._arm(name, parent) for name, parent in graph.parents(self.study).items())
        seconds, untimed = estimate_remaining(self.current, arms, self.running, self.driver)
        return Status(
            study=self.study.name,
            store=str(self.store.path),
            state=self._state(),
            driver=self.driver,
            settled=self.state.settled,
            running=self.state.running,
            total=graph.count_parts(self.study, self.state),
            seconds_left=seconds,
            untimed=untimed,
            damaged=tuple(map(str, self.damaged)),
            arms=arms,
        )

    def _state(self) -> str:
        if self.state.settled >= graph.count_parts(self.study, self.state) and not self.tasks:
            return "finished"
        if self.driver.alive is not False:
            return "running" if self.driver.alive else "unknown"
        return "stopped" if self.tasks else "ended"

    def _arm(self, name: str, parent: str | None) -> ArmStatus:
        return ArmStatus(
            name=name,
            parent=parent,
            stages=tuple(graph.stages_of(self.study, self.state, name)),
            running=tuple(job for job in self.running if job.arm == name),
            interrupted=tuple(job for job in self.interrupted if job.arm == name),
            troubles=tuple(_troubles([*self.current.records_by_stage(name)])),
            best=self._best(name),
            match=self._match(name),
            waits=self._waits(name) or self._unjudged(name),
        )

    def _waits(self, name: str) -> str | None:
        """Return why nothing more of the arm can start, if it has parts left."""
        is_running = bool(self.state.searches[name].running or self.state.repeats[name].running)
        is_ready = any(task.arm == name and task.stage in ("search", "repeats") for task in self.tasks)
        if name not in self.blocked or is_running or is_ready:
            return None
        expected = " and ".join(dict.fromkeys(self._expected(name)))
        return f"waits for {expected}" if expected else self.blocked[name]

    def _expected(self, name: str) -> Iterator[str]:
        """Yield what the arm needs and can still get."""
        arm = self.study.arms[name]
        needs, judged = (arm.search.needs, arm.search.judged_arms) if arm.search else ((), ())
        unfinished = [other for other in needs if not graph.is_arm_over(self.study, self.state, other)]
        if arm.teacher:
            key, repeats = graph.maps_key(arm), self.state.repeats[arm.teacher]
            seeds = {graph.teacher_seed(self.study, arm, seed) for seed in self.study.seeds}
            open_seeds = seeds - self.state.maps[key].settled if key else seeds
            if not open_seeds <= repeats.settled and not graph.is_arm_over(self.study, self.state, arm.teacher):
                yield arm.teacher
            elif key and open_seeds & repeats.done and arm.teacher not in unfinished:
                yield f"the maps of {arm.teacher}"
        yield from unfinished
        for other in needs:
            if other not in unfinished and other in judged and not graph.is_judged(self.state, other):
                yield f"the judgments of {other}"

    def _unjudged(self, name: str) -> str | None:
        """Return how many models of the arm have all judgments but those that read models of other trainings."""
        waiting = self.state.waiting[name] - self.state.judgments[name].settled
        count = sum(not graph.has_other_models(self.study, self.state, seed) for seed in waiting)
        return f"models with judgments that wait for other models: {count}" if count else None

    # ------------------------------------------------------------------- searches
    def _best(self, name: str) -> BestTrial | None:
        """Return the trial that a search that maximizes would choose now."""
        search = self.study.arms[name].search
        done = [trial for trial in self.current.list_trials(name) if trial["state"] == "done"]
        bounds = self.current.bounds(name)
        if search is None or bounds is None or (best := best_trial(search, done, bounds)) is None:
            return None
        params = read_params(best["recipe"], search.ranges)
        metrics = {metric: best["metrics"][metric] for metric in (str(search.maximize), *search.where)}
        return BestTrial(best["number"], params, metrics, bounds.explain_violation(best["number"], best["metrics"]))

    def _match(self, name: str) -> MatchStatus | None:
        """Return the match of the arm's search, or what is known while the search runs."""
        search = self.study.arms[name].search
        if search is None or search.matching is None:
            return None
        choice, target = self.current.choice(name), self.current.target(name)
        fields: dict[str, Any] = {}
        if choice is not None:
            fields = {"residual": choice["expected_residual"]} | {field: choice[field] for field in CHOICE_FIELDS}
        elif target is not None:
            fields = {"target": target.loss} | self._nearest(name, search, target)
        return MatchStatus(search.matching.arm, search.matched_metric, search.strength_name, **fields)

    def _nearest(self, name: str, search: Search, target: Target) -> dict[str, TriedStrength]:
        """Return the tried strengths ``below`` and ``above`` the match; {} if each combination has a match."""
        nearest: dict[str, TriedStrength] = {}
        tried = [
            TriedStrength(float(read_params(record["recipe"], [search.strength_name])[search.strength_name]), residual)
            for record in self.current.list_trials(name)
            if (residual := target.residual(record)) is not None and math.isfinite(residual)
        ]
        for strength in sorted(tried, key=attrgetter("value")) if search.combinations() == [{}] else ():
            if strength.residual <= 0:
                nearest["below"] = strength
            else:
                nearest.setdefault("above", strength)
        return nearest


def _troubles(records: Sequence[tuple[StageName, Record]]) -> Iterator[Trouble]:
    """Yield what did not end well, by stage and state."""

    def kind(pair: tuple[StageName, Record]) -> tuple[StageName, str]:
        return pair[0], pair[1]["state"]

    bad = sorted((pair for pair in records if pair[1]["state"] != "done"), key=kind)
    for (stage, state), group in groupby(bad, kind):
        errors = [record["error"] for _, record in group]
        first = next((_first_line(error) for error in errors if error), None)
        yield Trouble(stage, state, len(errors), first)


def _first_line(error: str) -> str:
    line = next(iter(error.strip().splitlines()), "")
    return line if len(line) <= ERROR_WIDTH else f"{line[: ERROR_WIDTH - 1]}…"


# --------------------------------------------------------------------- files of a store
def read_checkpoint(store: Store, job: Job, recorded: set[str]) -> dict[str, Any]:
    """Return ``doing``, ``done``, ``of``, ``seconds`` and ``loss`` of a started job, as far as they can be read.

    recorded: keys of its items that have a record.
    """
    folder = store.checkpoint_dir(job.key)
    trains = job.trains and any(model.key not in recorded for model in job.models)
    if trains:
        progress: dict[str, Any] = {"doing": "epochs", "done": 0, "of": job.recipe.training.epochs}
    else:
        checks = [item for item in job.work if item.kind == "judge" and isinstance(item.measure, ChecksMeasure)]
        doing = "blocks" if job.stage == "maps" else "checks" if len(checks) == len(job.work) else "judgments"
        progress = {"doing": doing, "done": 0, "of": None}
    progress |= {"seconds": 0.0, "loss": None}
    if progress["doing"] == "judgments":
        return progress | {"done": sum(item.key in recorded for item in job.work), "of": len(job.work)}
    try:
        if trains:
            content = json.loads(_read_header(folder / "epoch.safetensors")["__metadata__"]["progress"])
            losses = [curve[-1][TRAIN_LOSS] for curve in content["curves"].values() if curve]
            loss = sum(losses) / len(losses) if losses else None
            seconds = sum(content.get("spent", {}).values())
            return progress | {"done": content["epoch"], "seconds": seconds, "loss": loss}
        content = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        finished = len(content[progress["doing"]])
        return progress | {"done": finished, "of": content.get("of"), "seconds": content["seconds"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return progress


def _read_header(path: Path) -> Any:
    """Return the header of a safetensors file, JSON after its length in 8 bytes, without the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(min(length, os.fstat(file.fileno()).st_size)))


def _read_driver(store: Store) -> DriverStatus:
    folders = (store.path, store.driver_file, *store.path.glob("ledger/*/"), *store.path.glob("checkpoints/*/"))
    idle = round(max(0.0, time.time() - max(map(_mtime, folders))), 1)
    try:
        content = store.read_driver()
        pid, host, since = int(content["pid"]), str(content["host"]), datetime.fromisoformat(content["since"])
    except (LookupError, TypeError, ValueError):
        return DriverStatus(None, None, None, alive=False, idle=idle)
    return DriverStatus(pid, host, since.isoformat(), alive=lock.is_driver_alive(store), idle=idle)


def _mtime(path: Path) -> float:
    """Return when a file, or a folder's list of files, was last changed, in seconds since 1970; 0 without one."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
