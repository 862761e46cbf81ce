"""Forecast a study: find out what is left, measure what no record answers, and simulate the workers."""

import heapq
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tune_interpreg.cluster.drain import count_slots
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.networks.build import build
from tune_interpreg.networks.weights import named_tensors
from tune_interpreg.planning import costs
from tune_interpreg.planning.costs import Piece
from tune_interpreg.planning.measure import Measurement, measure
from tune_interpreg.running.preflight import check_data, check_networks
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.store.store import Damaged, Store
from tune_interpreg.study.config import MapSettings, Study
from tune_interpreg.study.file.read import StudyFile
from tune_interpreg.study.items import Job

#: Bytes per training for its record and TensorBoard's events, and per judgment.
TRAINING, JUDGMENT = 48 * 1024, 8 * 1024

#: Seconds until a worker has started, if none was measured.
START = 4.0

#: A run starts the command, Ray and the workers, and ends with tables and figures. Together, as worker starts.
STARTS = 3.0


@dataclass(frozen=True)
class Schedule:
    """Tasks in the order of their start, each with its seconds. end: seconds until all are done."""

    tasks: tuple[tuple[Task, float], ...]
    end: float

    @property
    def work(self) -> float:
        """Seconds of all tasks together."""
        return sum(seconds for _, seconds in self.tasks)


@dataclass(frozen=True)
class Plan:
    """The rest of a study, its time and its cost.

    workers_from: source of the worker count. schedule: of these workers. chain: seconds of the longest chain of tasks
    that wait for each other. overhead: seconds before and after all tasks. disk: bytes that the store grows by.
    measurement: None if the records of the store answer everything.
    """

    study: Study
    state: State
    workers: int
    workers_from: str
    schedule: Schedule
    chain: float
    overhead: float
    disk: int
    measurement: Measurement | None

    @property
    def seconds(self) -> float:
        """Seconds from the command to its tables; 0 if nothing is left."""
        return self.schedule.end + self.overhead if self.schedule.tasks else 0.0


def make_plan(file: StudyFile, store: Store, *, where: str, workers: int | None, console: Console) -> Plan:
    """Return the plan of what is left of a study. Writes nothing.

    Args:
        where: place to run, as for ``run``. workers: trials at once; None for as many as there is room for.
    Raises:
        StudyError, StoreError, ClusterError: as ``run``. MeasurementError: some work fails.
    """
    study = file.study
    with pause_gc():
        images = check_data(file)
        check_networks(file, images)
        if images.description:
            console.print(Text(images.description), soft_wrap=True)
        progress = read_progress(study, store, images.fingerprint).progress
    slots, workers_from = workers or count_slots(study, where), "from --workers"
    if not workers:
        workers_from = f"as many as --cluster {where} has room for"
    pieces: list[Piece] = []

    def note(task: Task, state: State) -> float:
        pieces.extend(costs.pieces_of(progress, state, task))
        return 1.0

    simulate(study, progress.state, note, math.inf)
    estimates = costs.recorded_seconds(progress)
    unknown = {piece.name: piece for piece in pieces if piece not in estimates}
    measurement = None
    if unknown:
        processes = 1 if where == "in-process" else min(slots, count_slots(study, "local"))
        with console.status(f"measuring with {processes} at once") if console.is_terminal else nullcontext():
            measurement = measure(study, [*unknown.values()], workers=processes)
        tests = images.tests or len(images.validation)
        for piece in unknown.values():
            estimates[piece] = costs.add_up(study, images, tests, measurement.seconds, piece)

    def seconds(task: Task, state: State) -> float:
        pieces = list(costs.pieces_of(progress, state, task))
        on_ray = 0.0 if where == "in-process" else costs.add_ray(study, pieces)
        return on_ray + sum(estimates[piece] for piece in pieces)

    return Plan(
        study=study,
        state=progress.state,
        workers=slots,
        workers_from=workers_from,
        schedule=simulate(study, progress.state, seconds, slots),
        chain=simulate(study, progress.state, seconds, math.inf).end,
        overhead=STARTS * (measurement.start if measurement else START),
        disk=_count_bytes(study, images, pieces),
        measurement=measurement,
    )


def _count_bytes(study: Study, images: Dataset, pieces: Iterable[Piece]) -> int:
    """Return the bytes that pieces leave in the store: models, maps in float16, records and events."""
    maps, weights, total = 2 * images.train.x_NCHW.numel(), {}, 0
    for piece in pieces:
        network = piece.model.model_dump_json()
        if network not in weights:
            model = build(piece.model, images.shape, images.classes, study.seeds[0])
            weights[network] = sum(tensor.numel() * tensor.element_size() for _, tensor in named_tensors(model))
        size: dict[type[Any], int] = {Job: TRAINING + weights[network], MapSettings: JUDGMENT + maps}
        total += piece.count * size.get(type(piece.content), JUDGMENT)
    return total


# ------------------------------------------------------------------------------- simulation
def simulate(study: Study, state: State, seconds: Callable[[Task, State], float], workers: float) -> Schedule:
    """Return the schedule of everything that is left, on workers that only count time.

    As in a run, a free worker takes the first task that is ready. Every search takes all of its trials. With an
    infinite number of workers, the end is the longest chain.
    """
    state = deepcopy(state)
    running: list[tuple[float, int, Task]] = []  # end, number of its start, task
    started: list[tuple[Task, float]] = []
    now = 0.0
    while True:
        while len(running) < workers and (task := next(graph.ready_tasks(study, state), None)):
            length = seconds(task, state)
            heapq.heappush(running, (now + length, len(started), task))
            started.append((task, length))
            state.stage_of(task).running.update(task.parts)
        if not running:
            return Schedule(tuple(started), now)
        now, _, task = heapq.heappop(running)
        graph.finish(study, state, task)


class ReadOnlyStore(Store):
    """A store that a driver may be using: nothing in it changes."""

    def write_checked(self, path: Path, content: dict[str, object]) -> None:
        """Write nothing: a run computes the same again."""

    def set_aside(self, damaged: Damaged) -> str:
        return str(damaged)

    def drop_checkpoint(self, key: str) -> None:
        """Drop nothing."""


def read_progress(study: Study, store: Store, fingerprint: str) -> Dispatcher:
    """Return what the store holds of the study. Raises ``StoreError`` if it belongs to another study."""
    store.check_setting(study)
    return Dispatcher(study, ReadOnlyStore(store.path), fingerprint, lambda _: None)
