"""The graph of arms: (study, what is settled) → the work that is ready now. Pure; no Ray, no files.

An arm goes through up to four stages: its teacher's maps, its search, its repeats, their checks. ``teacher`` and
``match_loss_of`` are the edges: maps wait for the teacher's seed that they are of, and a matched loss for all
seeds of its reference. Nothing waits for checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import filterfalse

from tune_interpreg.study.config import Arm, MapSettings, Study
from tune_interpreg.study.items import Role

#: The teacher's arm, and how maps are made of it. There is one set of raw maps a seed of the teacher.
MapsKey = tuple[str, MapSettings]

#: What breaks models of these methods is tried on all others, whose own gradients may be masked.
SOURCES = ("standard", "adversarial")


@dataclass
class StageParts:
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
    """What a study has so far: search trials by number, repeats and their checks by seed, maps by the teacher's seed.

    found: the arms whose search knows enough before all of its trials have run. begun: of these, the trials that
    were begun and wait to go on.
    """

    searches: dict[str, StageParts]
    repeats: dict[str, StageParts]
    maps: dict[MapsKey, StageParts]
    checks: dict[str, StageParts]
    matched: set[str] = field(default_factory=set)
    interrupted: dict[str, set[int]] = field(default_factory=dict)

    @classmethod
    def empty(cls, study: Study) -> State:
        wanted = {key for arm in study.arms.values() if (key := maps_key(arm))}
        searches, repeats, checks = ({name: StageParts() for name in study.arms} for _ in range(3))
        return cls(searches, repeats, {key: StageParts() for key in wanted}, checks)

    @property
    def running(self) -> int:
        """How many parts run now."""
        return sum(len(tally.running) for tally in self._tallies())

    @property
    def settled(self) -> int:
        """How many parts have a result."""
        return sum(len(tally.settled) for tally in self._tallies())

    def _tallies(self) -> Iterator[StageParts]:
        yield from (*self.searches.values(), *self.repeats.values(), *self.maps.values(), *self.checks.values())


@dataclass(frozen=True)
class Task:
    """Work that may start now.

    parts: seeds of a repeat, the one seed of checks, the one number of a search trial, or the teacher's seed that maps
    are made of.
    """

    arm: str
    role: Role
    parts: tuple[int, ...]


def maps_key(arm: Arm) -> MapsKey | None:
    """What the arm's maps are made of, or None if it needs none."""
    return (arm.targets.teacher, arm.targets.map_settings) if arm.targets else None


def consumer(study: Study, key: MapsKey) -> str:
    """The first arm that needs these maps; they are made for it."""
    return next(name for name, arm in study.arms.items() if maps_key(arm) == key)


def teacher_seed(study: Study, arm: Arm, seed: int) -> int:
    """The teacher's seed whose maps the arm's ``seed`` trains towards."""
    return seed if arm.targets and arm.targets.teachers == "per_seed" else study.seeds[0]


def maps_seeds(study: Study, key: MapsKey) -> tuple[int, ...]:
    """The teacher's seeds whose maps some arm needs."""
    wanted = [arm for arm in study.arms.values() if maps_key(arm) == key]
    own = any(arm.targets and arm.targets.teachers == "per_seed" for arm in wanted)
    return study.seeds if own else study.seeds[:1]


def ready_tasks(study: Study, state: State) -> Iterator[Task]:
    """The tasks that may start now, those that most other arms wait for first."""
    order = sorted(study.arms, key=lambda name: -len(dependents(study, name)))
    tasks = [task for name in order for task in _of_arm(study, state, name)]
    yield from sorted(tasks, key=lambda task: (task.role == "checks", task.role != "targets"))


def dependents(study: Study, name: str) -> set[str]:
    """All arms that wait, directly or not, for ``name``."""
    waiting: set[str] = set()
    more = {name}
    while more:
        more = {other for other, arm in study.arms.items() if not more.isdisjoint(arm.needs)} - waiting
        waiting |= more
    return waiting


def count_parts(study: Study, state: State | None = None) -> int:
    """How many items the whole study has, one seed an item, as far as it is known.

    A search that found what it sought has no more trials; a repeat that was given up is not checked.
    """
    found = state.matched if state else set()
    left = sum(arm.search.trials for name, arm in study.arms.items() if arm.search and name not in found)
    ended = (state.searches[name] for name in found) if state else ()
    searches = left + sum(len(tally.settled) + len(tally.running) for tally in ended)
    maps = sum(len(maps_seeds(study, key)) for key in State.empty(study).maps)
    lost = (state.repeats[name].lost for name in study.arms) if state else ()
    checks = len(study.arms) * len(study.seeds) - sum(len(seeds) for seeds in lost) if study.checks else 0
    return searches + len(study.arms) * len(study.seeds) + maps + checks


def _of_arm(study: Study, state: State, name: str) -> Iterator[Task]:
    arm = study.arms[name]
    yield from _maps(study, state, name)
    if not is_search_over(study, state, name):
        if _has_maps(study, state, arm, study.seeds[0]) and _has_loss(study, state, arm):
            yield from _search(study, state, name)
    elif not arm.search or state.searches[name].done:
        yield from _repeats(study, state, name)
    yield from _checks(study, state, name)


def _maps(study: Study, state: State, teacher: str) -> Iterator[Task]:
    """The maps of a teacher that are open."""
    for key, tally in state.maps.items():
        for seed in maps_seeds(study, key) if key[0] == teacher else ():
            if seed in state.repeats[teacher].done and tally.is_open(seed):
                yield Task(consumer(study, key), "targets", (seed,))


def _has_maps(study: Study, state: State, arm: Arm, seed: int) -> bool:
    """Whether the maps that the arm's ``seed`` trains towards are there, if it needs any."""
    key = maps_key(arm)
    return key is None or teacher_seed(study, arm, seed) in state.maps[key].done


def is_search_over(study: Study, state: State, name: str) -> bool:
    """Whether the arm's search is over: all trials are settled, or it found what it sought and none is under way."""
    search, tally = study.arms[name].search, state.searches[name]
    if search is None or len(tally.settled) >= search.trials:
        return True
    return name in state.matched and not tally.running and state.interrupted.get(name, set()) <= tally.settled


def _has_loss(study: Study, state: State, arm: Arm) -> bool:
    """Whether the loss that the arm's search matches is known, if it matches one, and that of its anchor."""
    search = arm.search
    if search is None or search.match_loss_of is None:
        return True
    known = bool(state.repeats[search.match_loss_of].done) and is_arm_over(study, state, search.match_loss_of)
    return known and (search.anchor is None or is_arm_over(study, state, search.anchor))


def is_arm_over(study: Study, state: State, name: str) -> bool:
    """Whether no seed of the arm can bring a result any more."""
    settled = state.repeats[name].settled
    return all(seed in settled or _is_out_of_reach(study, state, name, seed) for seed in study.seeds)


def _is_out_of_reach(study: Study, state: State, name: str, seed: int) -> bool:
    """Whether the maps for an arm's ``seed`` were given up, or their teacher was."""
    arm = study.arms[name]
    key = maps_key(arm)
    if key is None or arm.targets is None:
        return False
    needed, teacher = teacher_seed(study, arm, seed), arm.targets.teacher
    lost = needed in state.maps[key].lost or needed in state.repeats[teacher].lost
    return lost or _is_out_of_reach(study, state, teacher, needed)


def _search(study: Study, state: State, name: str) -> Iterator[Task]:
    """The next trial; of a search that found what it sought, only what was begun before it had."""
    search, tally = study.arms[name].search, state.searches[name]
    trials = range(search.trials if search else 0)
    wanted = sorted(state.interrupted.get(name, ())) if name in state.matched else trials
    number = next(filterfalse((tally.settled | tally.running).__contains__, wanted), None)
    if number is not None:
        yield Task(name, "search", (number,))


def _repeats(study: Study, state: State, name: str) -> Iterator[Task]:
    """The open seeds: on a GPU in one task, unless each has maps of its own."""
    arm, tally = study.arms[name], state.repeats[name]
    seeds = tuple(seed for seed in study.seeds if tally.is_open(seed) and _has_maps(study, state, arm, seed))
    together = study.resources.gpus and not (arm.targets and arm.targets.teachers == "per_seed")
    if seeds and together:
        yield Task(name, "repeat", seeds)
    else:
        yield from (Task(name, "repeat", (seed,)) for seed in seeds)


def attack_sources(study: Study) -> tuple[str, ...]:
    """The arms whose adversarial examples are tried on all models: the first of each of SOURCES that needs no other."""
    alone = {name: arm.method for name, arm in study.arms.items() if not arm.needs}
    first = (next((name for name, method in alone.items() if method == of), None) for of in SOURCES)
    return tuple(name for name in first if name)


def _checks(study: Study, state: State, name: str) -> Iterator[Task]:
    """The checks of repeats that are done, once no model that they need can come any more."""
    for seed in study.seeds:
        if state.checks[name].is_open(seed) and can_check(study, state, name, seed):
            yield Task(name, "checks", (seed,))


def can_check(study: Study, state: State, name: str, seed: int) -> bool:
    """Whether the arm's model of this seed is there to be checked, and no other that this needs is still to come."""
    there = study.checks is not None and seed in state.repeats[name].done
    return there and all(_is_known(study, state, source, seed) for source in attack_sources(study))


def _is_known(study: Study, state: State, name: str, seed: int) -> bool:
    """Whether the ``seed`` of an arm that needs no other is settled, or cannot be any more."""
    fruitless = bool(study.arms[name].search) and is_search_over(study, state, name) and not state.searches[name].done
    return fruitless or seed in state.repeats[name].settled


def blocked_arms(study: Study, state: State) -> Mapping[str, str]:
    """Arms with open seeds that nothing under way can open any more, and why: for reports once all is drained."""
    blocked: dict[str, str] = {}
    for name, arm in study.arms.items():
        open_seeds = [seed for seed in study.seeds if seed not in state.repeats[name].settled]
        without = [seed for seed in open_seeds if not _has_maps(study, state, arm, seed)]
        if not open_seeds:
            continue
        if without and arm.targets:
            own = arm.targets.teachers == "per_seed"
            which = f" for seed {', '.join(map(str, without))}" if own else ""
            blocked[name] = f"has no target maps{which}: the teacher {arm.targets.teacher} gave none"
        elif arm.search and arm.search.match_loss_of and not state.repeats[arm.search.match_loss_of].done:
            blocked[name] = f"has no loss to match: no seed of {arm.search.match_loss_of} finished"
        elif arm.search and not state.searches[name].done:
            blocked[name] = "no trial of its search finished"
        elif arm.search and is_search_over(study, state, name):
            needed = ", ".join(arm.search.goals or (arm.search.matched_metric,))
            blocked[name] = f"its search chose nothing: no trial that finished has {needed}"
    return blocked
