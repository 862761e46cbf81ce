"""Forecast a study: find out what is left, measure what no record answers, and simulate the workers."""

import heapq
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tune_interpreg.cluster.drain import count_slots
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.networks.build import build
from tune_interpreg.networks.weights import named_tensors
from tune_interpreg.planning import costs
from tune_interpreg.planning.measure import Measurement, measure
from tune_interpreg.running.preflight import check_data, check_network
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.store.store import Damaged, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile

#: Bytes per item for its record and TensorBoard's events.
RECORD = 48 * 1024

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

    workers_from: source of the worker count. schedule: of these workers. chain: seconds of the longest chain of items
    that wait for each other. overhead: seconds before and after all items. disk: bytes that the store grows by.
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
        check_network(file, images)
        if images.description:
            console.print(Text(images.description), soft_wrap=True)
        progress = read_progress(study, store, images.fingerprint)
    slots, workers_from = workers or count_slots(study, where), "from --workers"
    if not workers:
        workers_from = f"as many as --cluster {where} has room for"
    tasks = [task for task, _ in simulate(study, progress.state, lambda _: 1.0, math.inf).tasks]
    estimates = costs.recorded_seconds(study, progress.records.values())
    groups = {group: task for task in tasks if (group := costs.group_of(task)) not in estimates}
    measurement = None
    if groups:
        processes = 1 if where == "in-process" else min(slots, count_slots(study, "local"))
        with console.status(f"measuring with {processes} at once") if console.is_terminal else nullcontext():
            measurement = measure(study, [*groups.values()], workers=processes)
        tests = images.tests or len(images.validation)
        for group, task in groups.items():
            estimates[group] = costs.add_up(study, images, tests, measurement.seconds, task)

    def seconds(task: Task) -> float:
        return estimates[costs.group_of(task)] + (0.0 if where == "in-process" else costs.add_ray(study, task))

    return Plan(
        study=study,
        state=progress.state,
        workers=slots,
        workers_from=workers_from,
        schedule=simulate(study, progress.state, seconds, slots),
        chain=simulate(study, progress.state, seconds, math.inf).end,
        overhead=STARTS * (measurement.start if measurement else START),
        disk=_count_bytes(study, images, tasks),
        measurement=measurement,
    )


def _count_bytes(study: Study, images: Dataset, tasks: Iterable[Task]) -> int:
    """Return the bytes that tasks leave in the store: models, maps in float16, and records."""
    model = build(study.model, images.shape, images.classes, study.seeds[0])
    weights = sum(tensor.numel() * tensor.element_size() for _, tensor in named_tensors(model))
    maps = 2 * images.train.x_NCHW.numel()
    size = {"repeat": weights, "targets": maps, "search": 0, "checks": 0}
    return sum(RECORD + size[task.role] * (len(task.parts) if task.role == "repeat" else 1) for task in tasks)


# ------------------------------------------------------------------------------- simulation
def simulate(study: Study, state: State, seconds: Callable[[Task], float], workers: float) -> Schedule:
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
            heapq.heappush(running, (now + seconds(task), len(started), task))
            started.append((task, seconds(task)))
            state.stage_of(task).running.update(task.parts)
        if not running:
            return Schedule(tuple(started), now)
        now, _, task = heapq.heappop(running)
        stage = state.stage_of(task)
        stage.running.difference_update(task.parts)
        stage.done.update(task.parts)


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
