"""The stages of `plan`: check everything, look at the store, measure what is not known, reckon."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from tune_interpreg import seeding
from tune_interpreg.cluster import drain as cluster
from tune_interpreg.data.dataset import Dataset, count_test_images
from tune_interpreg.networks import piecewise_linear as models
from tune_interpreg.planning import costs, measuring, simulation
from tune_interpreg.planning.costs import AROUND, Costs, CostsError, Prices
from tune_interpreg.planning.pieces import Piece, probe
from tune_interpreg.planning.simulation import Schedule
from tune_interpreg.running import run as running
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile

#: Bytes that an item leaves beside models and maps: its record, and what TensorBoard shows of it.
NOTES = 48 * 1024

#: Seconds of a worker's start where none was measured.
START = 4.0


@dataclass(frozen=True)
class Question:
    """What `plan` is asked beside the study.

    where: as for `run`, None where it is not named. workers: how many trials at once, in place of those that there is
    room for. known: a file with the costs of a device, in place of a measurement. save: where to keep a measurement.
    """

    where: str | None = None
    workers: int | None = None
    known: Path | None = None
    save: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What is left of a study, and what it takes.

    whence: what says how many workers there are. schedule: on them. chain: the seconds of the longest chain of items
    that wait for each other. around: those before and after all items. disk: bytes that the store grows by. costs: what
    was measured, now or earlier; None where the store's own records tell all.
    """

    study: Study
    state: State
    workers: int
    whence: str
    schedule: Schedule
    chain: float
    around: float
    disk: int
    costs: Costs | None

    @property
    def seconds(self) -> float:
        """From the command to its tables; 0 where nothing is left."""
        return self.schedule.end + self.around if self.schedule.tasks else 0.0

    @property
    def gpu_hours(self) -> float:
        """Of all GPUs that the workers hold, at work or not."""
        return self.workers * self.study.resources.gpus * self.seconds / 3600

    @property
    def cpu_hours(self) -> float:
        """Likewise of CPU cores."""
        return self.workers * self.study.resources.cpus * self.seconds / 3600

    def memory(self, name: str = "memory") -> int | None:
        """Bytes of all workers together; None where none was measured."""
        return int(self.workers * self.costs.processes[name]) if self.costs else None


def planned(file: StudyFile, store: Store, asked: Question, console: Console) -> Plan:
    """What is left of the study; nothing is written but ``asked.save``.

    Raises ``StudyError``, ``StoreError`` or ``ClusterError``.
    """
    study, known = file.study, costs.read(asked.known) if asked.known else None
    with pause_gc():
        images = running.checked_data(file)
        so_far = simulation.so_far(study, store, images.fingerprint)
    workers, whence = _workers(study, asked, known)
    tests = count_test_images(study.data) or len(images.validation)
    prices = Prices(study, tests, () if known else so_far.records.values(), ray=asked.where != "in-process")
    left = [task for task, _ in simulation.schedule(study, so_far.state, lambda _: 1.0, math.inf).tasks]
    lacking = prices.lacking(left) | (_all(study, tests) if asked.save else {})
    if known:
        _require(known, lacking, asked)
    elif lacking:
        known = _measured(study, images, lacking, asked, console)
    if known:
        prices.costs = known.pieces
    if known and asked.save:
        known.save(asked.save)
    return Plan(
        study,
        so_far.state,
        workers,
        whence,
        simulation.schedule(study, so_far.state, prices, workers),
        simulation.schedule(study, so_far.state, prices, math.inf).end,
        AROUND * (known.processes["start"] if known else START),
        _disk(study, images, left),
        known,
    )


def _workers(study: Study, asked: Question, known: Costs | None) -> tuple[int, str]:
    """How many trials run at once, and what says so: what is named, before what a file of costs was measured with."""
    if asked.workers:
        return asked.workers, "as --workers says"
    if known and asked.where is None:
        return known.workers, f"as many as {asked.known} was measured with; --workers or --cluster says otherwise"
    where = asked.where or "local"
    return cluster.count_slots(study, where), f"as many as --cluster {where} has room for"


def _all(study: Study, tests: int) -> dict[str, Piece]:
    """Every piece of the study, whatever is there already: a measurement that is kept serves another store."""
    tasks = simulation.schedule(study, State.empty(study), lambda _: 1.0, math.inf).tasks
    return Prices(study, tests).lacking(task for task, _ in tasks)


def _require(known: Costs, needed: Mapping[str, Piece], asked: Question) -> None:
    if missing := sorted({piece.title for key, piece in needed.items() if key not in known.pieces}):
        raise CostsError(
            f"{asked.known}: holds no times of {', '.join(missing)} under this study's setting; "
            "measure this study there, with --save"
        )


def _measured(study: Study, images: Dataset, pieces: Mapping[str, Piece], asked: Question, console: Console) -> Costs:
    """The costs of the pieces here, with as many processes as this machine has room for, or were asked for."""
    room, started = cluster.count_slots(study, "in-process" if asked.where == "in-process" else "local"), time.time()
    workers = min(room, asked.workers or room)
    told = f"measuring {len(pieces)} pieces of work, {workers} at a time"
    shown = console.status(told) if console.is_terminal else nullcontext()
    with shown:
        found, seen = measuring.measure(pieces, probe(study), tuple(images.train.x_NCHW.shape), workers=workers)
    return Costs(
        device=torch.cuda.get_device_name() if study.resources.gpus else "cpu",
        host=socket.gethostname(),
        workers=workers,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - started, 1),
        processes=seen,
        pieces=found,
    )


def _disk(study: Study, images: Dataset, left: Iterable[Task]) -> int:
    """Bytes that the tasks leave in the store: models, maps in float16, and notes of each."""
    model = models.build(study.model, images.shape, images.classes, seeding.generator(0, "init"))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    maps, counted = 2 * images.train.x_NCHW.numel(), list(left)
    trained = sum(len(task.parts) for task in counted if task.role == "repeat")
    return trained * weights + sum(maps for task in counted if task.role == "targets") + NOTES * len(counted)
