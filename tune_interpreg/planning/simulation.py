"""What would run and when: the graph drained by workers that only count time. Nothing is written."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Tally, Task
from tune_interpreg.store.store import Damaged, Store
from tune_interpreg.study.config import Study

Seconds = Callable[[Task], float]


@dataclass(frozen=True)
class Schedule:
    """When what is left would run.

    tasks: in the order of their start, each with the seconds that it takes. end: seconds until all is done.
    """

    tasks: tuple[tuple[Task, float], ...]
    end: float

    @property
    def work(self) -> float:
        """Seconds of all tasks together."""
        return sum(seconds for _, seconds in self.tasks)


def schedule(study: Study, state: State, seconds: Seconds, workers: float) -> Schedule:
    """What ``workers`` do with all that is left; an infinite number of them shows the longest chain.

    As a run does, a worker that is free takes the first task that is ready. Searches take all of their trials: that a
    match is found sooner, or that a trial is pruned, is known only then.
    """
    state = deepcopy(state)
    under_way: list[tuple[float, int, Task]] = []
    now, ran, count = 0.0, [], itertools.count()
    at_once = None if workers == math.inf else 1
    while True:
        while len(under_way) < workers and (tasks := list(itertools.islice(graph.ready(study, state), at_once))):
            for task in tasks:
                ran.append((task, seconds(task)))
                heapq.heappush(under_way, (now + ran[-1][1], next(count), task))
                tally(study, state, task).running.update(task.parts)
        if not under_way:
            return Schedule(tuple(ran), now)
        now, _, task = heapq.heappop(under_way)
        own = tally(study, state, task)
        own.running.difference_update(task.parts)
        own.done.update(task.parts)


def tally(study: Study, state: State, task: Task) -> Tally:
    """The stage that a task is of."""
    if task.role == "targets":
        key = graph.maps_of(study.arms[task.arm])
        assert key is not None
        return state.maps[key]
    return {"search": state.searches, "repeat": state.repeats, "checks": state.checks}[task.role][task.arm]


class Glance(Store):
    """A store that is only looked at, also while a driver works in it: nothing of it changes."""

    def write_sealed(self, path: Path, content: dict[str, object]) -> None:
        """Nothing: what is worked out anew is worked out again by whoever runs the study."""

    def set_aside(self, damaged: Damaged) -> str:
        return str(damaged)

    def end(self, key: str) -> None:
        """Nothing, likewise."""


def so_far(study: Study, store: Store, fingerprint: str) -> Dispatcher:
    """What the store holds of the study; raises ``StoreError`` where it is of another one."""
    store.check(study)
    return Dispatcher(study, Glance(store.path), fingerprint, lambda _: None)
