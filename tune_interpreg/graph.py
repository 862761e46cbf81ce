"""The graph of arms: (study, what is settled) → the work that is ready now. Pure; no Ray, no files.

An arm goes through up to three stages: its teacher's maps, its search, its repeats. ``teacher`` and
``match_loss_of`` are the edges: maps wait for the teacher's first seed, and a matched loss for all seeds
of its reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tune_interpreg.config import Arm, Study
from tune_interpreg.items import Role

#: (teacher's arm, sigma, samples): what one set of raw maps is made of.
MapsOf = tuple[str, float, int]


@dataclass
class Tally:
    """What is known of one stage: which of its parts run, are done, or were given up."""

    running: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)

    @property
    def settled(self) -> set[int]:
        return self.done | self.lost

    def is_open(self, part: int) -> bool:
        """Whether ``part`` is neither settled nor under way."""
        return part not in self.running and part not in self.done and part not in self.lost


@dataclass
class State:
    """What a study has so far: search trials by number, repeats by seed, maps by what they are made of."""

    searches: dict[str, Tally]
    repeats: dict[str, Tally]
    maps: dict[MapsOf, Tally]

    @classmethod
    def empty(cls, study: Study) -> State:
        wanted = {key for arm in study.arms.values() if (key := maps_of(arm))}
        return cls(
            {name: Tally() for name in study.arms}, {name: Tally() for name in study.arms}, {k: Tally() for k in wanted}
        )

    @property
    def under_way(self) -> int:
        """How many parts run now."""
        return sum(len(tally.running) for tally in self._tallies())

    @property
    def settled(self) -> int:
        """How many parts have a result."""
        return sum(len(tally.settled) for tally in self._tallies())

    def _tallies(self) -> Iterator[Tally]:
        yield from (*self.searches.values(), *self.repeats.values(), *self.maps.values())


@dataclass(frozen=True)
class Task:
    """Work that may start now: ``parts`` are seeds of a repeat, or the one number of a search trial."""

    arm: str
    role: Role
    parts: tuple[int, ...]


def maps_of(arm: Arm) -> MapsOf | None:
    """What the arm's maps are made of, or None if it needs none."""
    return (arm.targets.teacher, arm.targets.sigma, arm.targets.samples) if arm.targets else None


def ready(study: Study, state: State) -> Iterator[Task]:
    """The tasks that may start now, those that most other arms wait for first."""
    order = sorted(study.arms, key=lambda name: -len(dependents(study, name)))
    tasks = [task for name in order for task in _of_arm(study, state, name)]
    yield from sorted(tasks, key=lambda task: task.role != "targets")


def dependents(study: Study, name: str) -> set[str]:
    """All arms that wait, directly or not, for ``name``."""
    waiting: set[str] = set()
    more = {name}
    while more:
        more = {other for other, arm in study.arms.items() if not more.isdisjoint(arm.needs)} - waiting
        waiting |= more
    return waiting


def total(study: Study) -> int:
    """How many items the whole study has, one seed an item."""
    searches = sum(arm.search.trials for arm in study.arms.values() if arm.search)
    return searches + len(study.arms) * len(study.seeds) + len(State.empty(study).maps)


def _of_arm(study: Study, state: State, name: str) -> Iterator[Task]:
    arm, first = study.arms[name], study.seeds[0]
    for key, tally in state.maps.items():
        if key[0] == name and first in state.repeats[name].done and tally.is_open(first):
            yield Task(next(n for n, a in study.arms.items() if maps_of(a) == key), "targets", (first,))
    if not _may_start(study, state, arm):
        return
    if arm.search and len(state.searches[name].settled) < arm.search.trials:
        yield from _search(state.searches[name], name, arm.search.trials)
    elif not arm.search or state.searches[name].done:
        yield from _repeats(study, state.repeats[name], name)


def _may_start(study: Study, state: State, arm: Arm) -> bool:
    key = maps_of(arm)
    if key and not state.maps[key].done:
        return False
    reference = arm.search.match_loss_of if arm.search else None
    if not reference:
        return True
    repeats = state.repeats[reference]
    return bool(repeats.done) and repeats.settled >= set(study.seeds)


def _search(tally: Tally, name: str, trials: int) -> Iterator[Task]:
    number = next((number for number in range(trials) if tally.is_open(number)), None)
    if number is not None:
        yield Task(name, "search", (number,))


def _repeats(study: Study, tally: Tally, name: str) -> Iterator[Task]:
    open_seeds = tuple(seed for seed in study.seeds if tally.is_open(seed))
    if open_seeds and study.resources.gpus:
        yield Task(name, "repeat", open_seeds)
    elif open_seeds:
        yield from (Task(name, "repeat", (seed,)) for seed in open_seeds)


def waiting(study: Study, state: State) -> Mapping[str, str]:
    """Arms with open seeds that nothing under way can open any more, and why: for reports once all is drained."""
    blocked: dict[str, str] = {}
    for name, arm in study.arms.items():
        if set(study.seeds) <= state.repeats[name].settled:
            continue
        key = maps_of(arm)
        if key and not state.maps[key].done:
            blocked[name] = f"has no target maps: the teacher {key[0]} gave none"
        elif arm.search and arm.search.match_loss_of and not state.repeats[arm.search.match_loss_of].done:
            blocked[name] = f"has no loss to match: no seed of {arm.search.match_loss_of} finished"
        elif arm.search and not state.searches[name].done:
            blocked[name] = "no trial of its search finished"
    return blocked
