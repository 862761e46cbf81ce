"""The graph of arms: from a study and its state to the work that can start now. Pure: no files, no Ray.

An arm has up to four stages: a search, repeats, maps for the arms that it teaches, and judgments of its repeats'
models. ``teacher``, ``match`` and ``where`` are the edges. Maps, and arms that train with the teacher's model,
wait for one seed of the teacher. A matched loss waits for all seeds of its arm, a bound for their judgments, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from tune_interpreg.study.config import Arm, MapSettings, Study
from tune_interpreg.study.items import Job, Maps, StageName
from tune_interpreg.study.metric_names import TRAIN_LOSS

#: The teacher's arm and the settings of its maps. There is one set of raw maps per key and seed of the teacher.
MapsKey = tuple[str, MapSettings]

#: Methods of the arms that supply adversarial examples for the checks of all models.
SOURCES = ("standard", "adversarial")


@dataclass
class StageParts:
    """The parts of one stage, by number or seed: those that run, are done, or were given up.

    ``done`` and ``lost`` only grow.
    """

    running: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    _settled: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    _sizes: tuple[int, int] = field(
        default=(0, 0), init=False, repr=False, compare=False
    )  # of done and lost, in _settled
    _first: int = field(default=0, init=False, repr=False, compare=False)  # all parts before it are settled

    @property
    def settled(self) -> set[int]:
        """The parts that have a result, good or bad; not to be changed."""
        sizes = len(self.done), len(self.lost)
        if sizes != self._sizes:
            self._settled, self._sizes = self.done | self.lost, sizes
        return self._settled

    def is_open(self, part: int) -> bool:
        """Return whether ``part`` neither runs nor is settled."""
        return part not in self.running and part not in self.settled

    def first_open(self) -> int:
        """Return the first number that neither runs nor is settled."""
        settled = self.settled
        while self._first in settled:
            self._first += 1
        return next(part for part in itertools.count(self._first) if self.is_open(part))


@dataclass(frozen=True)
class Task:
    """Work that can start now."""

    arm: str  # the arm that it belongs to; maps belong to their teacher
    stage: StageName
    parts: tuple[int, ...]  # number of a trial, seeds of repeats, seed of judgments or of the maps' teacher
    maps: MapSettings | None = None  # settings of the maps to make

    @classmethod
    def from_job(cls, job: Job) -> Task:
        """Return the task that a job settles."""
        maps = next((item.settings for item in job.work if isinstance(item, Maps)), None)
        return cls(job.arm, job.stage, job.parts, maps)


@dataclass
class State:
    """The state of a study: the parts of its stages."""

    searches: dict[str, StageParts]  # arm → trials by number
    repeats: dict[str, StageParts]  # arm → seeds
    maps: dict[MapsKey, StageParts]  # seeds of the teacher
    judgments: dict[str, StageParts]  # arm → seeds
    waiting: dict[str, set[int]]  # arm → seeds with all judgments but those that wait for other models
    matched: dict[str, int] = field(default_factory=dict)  # arm → trials that its match needs, once that is known

    @classmethod
    def empty(cls, study: Study) -> State:
        """Return the state before anything has run."""
        searches, repeats, judgments = ({name: StageParts() for name in study.arms} for _ in range(3))
        maps = {key: StageParts() for key in map(maps_key, study.arms.values()) if key}
        return cls(searches, repeats, maps, judgments, {name: set() for name in study.arms})

    @property
    def running(self) -> int:
        """The number of parts that run now."""
        return sum(len(stage.running) for stage in self.all_stages())

    @property
    def settled(self) -> int:
        """The number of parts that have a result."""
        return sum(len(stage.settled) for stage in self.all_stages())

    def stage_of(self, task: Task) -> StageParts:
        """Return the stage of a task. Raise ``KeyError`` if the study has no such stage."""
        if task.maps:
            return self.maps[task.arm, task.maps]
        stages = {"search": self.searches, "repeats": self.repeats, "judgments": self.judgments}
        return stages[task.stage][task.arm]

    def all_stages(self) -> Iterator[StageParts]:
        """Yield the parts of every stage."""
        for stages in (self.searches, self.repeats, self.maps, self.judgments):
            yield from stages.values()


# ------------------------------------------------------------------ maps and sources
def maps_key(arm: Arm) -> MapsKey | None:
    """Return the key of the maps that the arm trains towards; None without maps, or if each training has its own."""
    if arm.teacher is None or arm.targets is None or arm.searches_maps:
        return None
    return arm.teacher, arm.targets.map_settings


def teacher_seed(study: Study, arm: Arm, seed: int) -> int:
    """Return the teacher's seed that teaches the arm's ``seed``, by its model or its maps."""
    return seed if _has_teacher_per_seed(arm) else study.seeds[0]


def maps_seeds(study: Study, key: MapsKey) -> tuple[int, ...]:
    """Return the teacher's seeds for which some arm needs these maps."""
    per_seed = any(maps_key(arm) == key and _has_teacher_per_seed(arm) for arm in study.arms.values())
    return study.seeds if per_seed else study.seeds[:1]


def attack_sources(study: Study) -> tuple[str, ...]:
    """Return the arms that attack all models in the checks: per method of SOURCES, the first arm without needs."""
    methods = {name: arm.method for name, arm in study.arms.items() if not arm.needs}
    first = [next((name for name, method in methods.items() if method == source), None) for source in SOURCES]
    return tuple(name for name in first if name)


def map_models(study: Study) -> dict[str, tuple[str, int]]:
    """Return label → arm and seed of the robust models with maps that all models' maps are compared with.

    ``teacher``: the first seed, which teaches. ``unseen``: the second seed, unless it teaches too. Empty without an
    arm of adversarial training.
    """
    robust = next((name for name in attack_sources(study) if study.arms[name].method == "adversarial"), None)
    if robust is None:
        return {}
    models = {"teacher": (robust, study.seeds[0])}
    all_teach = any(arm.teacher == robust and _has_teacher_per_seed(arm) for arm in study.arms.values())
    if len(study.seeds) > 1 and not all_teach:
        models["unseen"] = robust, study.seeds[1]
    return models


def _has_teacher_per_seed(arm: Arm) -> bool:
    return arm.teacher is not None and arm.teachers == "per_seed"


# ------------------------------------------------------------------ progress of arms
@dataclass(frozen=True)
class Stage:
    """Numbers of parts of an arm's stage: done, given up, running, and in total as far as it is known."""

    name: StageName
    done: int
    lost: int
    running: int
    total: int

    @property
    def settled(self) -> int:
        return self.done + self.lost


def stages_of(study: Study, state: State, name: str) -> list[Stage]:
    """Return the stages of an arm. A finished match has no further trials, and a lost repeat has no judgments."""
    search, trials, repeats = study.arms[name].search, state.searches[name], state.repeats[name]
    parts: dict[StageName, tuple[int, list[StageParts]]] = {}
    if search:
        started = len(trials.settled) + len(trials.running)
        parts["search"] = max(started, state.matched[name]) if name in state.matched else search.trials, [trials]
    parts["repeats"] = len(study.seeds), [repeats]
    if keys := [key for key in state.maps if key[0] == name]:
        parts["maps"] = sum(len(maps_seeds(study, key)) for key in keys), [state.maps[key] for key in keys]
    parts["judgments"] = len(study.seeds) - len(repeats.lost), [state.judgments[name]]
    return [
        Stage(
            stage_name,
            done=sum(len(stage.done) for stage in stages),
            lost=sum(len(stage.lost - stage.done) for stage in stages),
            running=sum(len(stage.running) for stage in stages),
            total=total,
        )
        for stage_name, (total, stages) in parts.items()
    ]


def count_parts(study: Study, state: State | None = None) -> int:
    """Return how many parts the whole study has, as far as ``state`` shows it; a part is one trial or one seed."""
    state = state or State.empty(study)
    return sum(stage.total for name in study.arms for stage in stages_of(study, state, name))


def parents(study: Study) -> dict[str, str | None]:
    """Return each arm's parent in the tree, top down: of the arms that it needs, the one deepest in the tree."""
    depths: dict[str | None, int] = {None: 0}
    parents = {}
    for name in study.arms_in_order():
        parents[name] = max(study.arms[name].needs, key=depths.__getitem__, default=None)
        depths[name] = depths[parents[name]] + 1
    return parents


# -------------------------------------------------------------------- what is ready
def ready_tasks(study: Study, state: State) -> Iterator[Task]:
    """Yield the tasks that can start now: maps first, judgments last, else the arms that most others wait for first."""
    order = sorted(study.arms, key=lambda name: -len(dependents(study, name)))
    tasks = [task for name in order for task in _arm_tasks(study, state, name)]
    yield from sorted(tasks, key=lambda task: (task.stage == "judgments", task.stage != "maps"))


def finish(study: Study, state: State, task: Task) -> None:
    """Note in the state that a task is done, and what a run then has at once.

    A job of repeats also takes their judgments, except the checks. The model of a search's best trial is the repeat of
    its seed, unless trials train less than repeats.
    """
    stage, arm = state.stage_of(task), study.arms[task.arm]
    stage.running.difference_update(task.parts)
    if task.stage == "judgments" and task.parts[0] not in state.waiting[task.arm]:
        state.waiting[task.arm].update(task.parts)
        if not has_other_models(study, state, task.parts[0]):
            return
    stage.done.update(task.parts)
    if task.stage == "repeats":
        state.waiting[task.arm].update(task.parts)
        if not (study.evaluation.checks or study.evaluation.interpretability):
            state.judgments[task.arm].done.update(task.parts)
    search = arm.search if task.stage == "search" else None
    if search and search.maximize and not search.fidelity and is_search_over(study, state, task.arm):
        state.repeats[task.arm].done.update(study.seeds[: search.seeds])


def dependents(study: Study, name: str) -> set[str]:
    """Return all arms that need ``name``, directly or through other arms."""
    needing: set[str] = set()
    new = {name}
    while new:
        new = {other for other, arm in study.arms.items() if not new.isdisjoint(arm.needs)} - needing
        needing |= new
    return needing


def is_search_over(study: Study, state: State, name: str) -> bool:
    """Return whether the arm has no trials left: all that it needs are settled."""
    search, settled = study.arms[name].search, state.searches[name].settled
    if search is None or len(settled) >= search.trials:
        return True
    return name in state.matched and settled.issuperset(range(state.matched[name]))


def is_arm_over(study: Study, state: State, name: str) -> bool:
    """Return whether no seed of the arm can bring a result any more."""
    settled = state.repeats[name].settled
    return all(seed in settled or _is_unreachable(study, state, name, seed) for seed in study.seeds)


def is_judged(state: State, name: str) -> bool:
    """Return whether the models of an arm's finished repeats are judged, except by measures that need other models."""
    return state.repeats[name].done <= state.waiting[name] | state.judgments[name].settled


def has_other_models(study: Study, state: State, seed: int) -> bool:
    """Return whether the other models that judgments of this seed read are all there or cannot come."""
    others = [(source, seed) for source in attack_sources(study)] if study.evaluation.checks else []
    others += map_models(study).values() if study.evaluation.interpretability else []
    return all(_is_source_settled(study, state, *other) for other in others)


def blocked_arms(study: Study, state: State) -> dict[str, str]:
    """Return the arms with open seeds that nothing can start any more, and why; call it when nothing runs."""
    blocked: dict[str, str] = {}
    for name, arm in study.arms.items():
        search = arm.search
        open_seeds = [seed for seed in study.seeds if seed not in state.repeats[name].settled]
        untaught = [seed for seed in open_seeds if not _has_ready_teacher(study, state, arm, seed)]
        if not open_seeds:
            continue
        if untaught:
            seeds = f" for seed {', '.join(map(str, untaught))}" if _has_teacher_per_seed(arm) else ""
            missing = "target maps" if arm.targets else "model to learn from"
            blocked[name] = f"has no {missing}{seeds}: the teacher {arm.teacher} gave none"
        elif search and search.matching and not state.repeats[search.matching.arm].done:
            value = "loss" if search.matched_metric == TRAIN_LOSS else search.matched_metric
            blocked[name] = f"has no {value} to match: no seed of {search.matching.arm} finished"
        elif search and (lost := [other for other in search.bounding_arms if not state.repeats[other].done]):
            blocked[name] = f"has no bound for where: no seed of {lost[0]} finished"
        elif search and not state.searches[name].done:
            blocked[name] = "no trial of its search finished"
        elif search and is_search_over(study, state, name):
            metrics = " and ".join([search.maximize or search.matched_metric, *search.where])
            blocked[name] = f"its search chose nothing: no trial that finished has {metrics}"
    return blocked


def _arm_tasks(study: Study, state: State, name: str) -> Iterator[Task]:
    arm = study.arms[name]
    yield from _maps_tasks(study, state, name)
    if not is_search_over(study, state, name):
        if _has_ready_teacher(study, state, arm, study.seeds[0]) and _has_references(study, state, arm):
            yield from _search_tasks(study, state, name)
    elif not arm.search or state.searches[name].done:
        yield from _repeat_tasks(study, state, name)
    for seed in study.seeds:
        is_open = seed in state.repeats[name].done and state.judgments[name].is_open(seed)
        if is_open and (seed not in state.waiting[name] or has_other_models(study, state, seed)):
            yield Task(name, "judgments", (seed,))


def _maps_tasks(study: Study, state: State, teacher: str) -> Iterator[Task]:
    """Yield the open maps of a teacher."""
    for key, stage in state.maps.items():
        for seed in maps_seeds(study, key) if key[0] == teacher else ():
            if seed in state.repeats[teacher].done and stage.is_open(seed):
                yield Task(teacher, "maps", (seed,), key[1])


def _search_tasks(study: Study, state: State, name: str) -> Iterator[Task]:
    """Yield the next trial, once the trials that it is proposed from are settled."""
    search, trials = study.arms[name].search, state.searches[name]
    assert search is not None
    number, end = trials.first_open(), state.matched.get(name, search.trials)
    if number < end and all(other >= search.known_trials(number) for other in trials.running):
        yield Task(name, "search", (number,))


def _repeat_tasks(study: Study, state: State, name: str) -> Iterator[Task]:
    """Yield the open seeds: on a GPU as one task, unless each seed has its own teacher."""
    arm, repeats = study.arms[name], state.repeats[name]
    seeds = tuple(seed for seed in study.seeds if repeats.is_open(seed) and _has_ready_teacher(study, state, arm, seed))
    if seeds and study.resources.gpus and not _has_teacher_per_seed(arm):
        yield Task(name, "repeats", seeds)
    else:
        yield from (Task(name, "repeats", (seed,)) for seed in seeds)


def _has_ready_teacher(study: Study, state: State, arm: Arm, seed: int) -> bool:
    """Return whether the teacher's maps for the arm's ``seed`` are there, or else its model; True without a teacher."""
    if arm.teacher is None:
        return True
    key = maps_key(arm)
    stage = state.maps[key] if key else state.repeats[arm.teacher]
    return teacher_seed(study, arm, seed) in stage.done


def _has_references(study: Study, state: State, arm: Arm) -> bool:
    """Return whether the arms are over that the arm's search compares with, and those with a bound are judged."""
    search = arm.search
    if search is None:
        return True
    if search.matching and not state.repeats[search.matching.arm].done:
        return False
    if not all(is_arm_over(study, state, other) for other in search.needs):
        return False
    return all(state.repeats[other].done and is_judged(state, other) for other in search.judged_arms)


def _is_unreachable(study: Study, state: State, name: str, seed: int) -> bool:
    """Return whether the teacher's model for an arm's ``seed``, or its maps, were given up."""
    arm = study.arms[name]
    if arm.teacher is None:
        return False
    key, needed = maps_key(arm), teacher_seed(study, arm, seed)
    if needed in state.repeats[arm.teacher].lost or (key and needed in state.maps[key].lost):
        return True
    return _is_unreachable(study, state, arm.teacher, needed)


def _is_source_settled(study: Study, state: State, name: str, seed: int) -> bool:
    """Return whether a source's ``seed`` is settled, or its search found nothing to train with."""
    searched_in_vain = is_search_over(study, state, name) and not state.searches[name].done
    return seed in state.repeats[name].settled or (study.arms[name].search is not None and searched_in_vain)
