"""How far each arm is, stage by stage, and the tree that the arms stand in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import State, StageParts
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Role

#: What the parts of each role are called, in the order in which an arm goes through them.
STAGE_NAMES: dict[Role, str] = {"search": "search", "repeat": "repeats", "targets": "maps", "checks": "checks"}


@dataclass(frozen=True)
class Stage:
    """How many parts of an arm's stage are done, were given up and run, of how many, as far as that is known."""

    role: Role
    done: int
    lost: int
    running: int
    total: int

    @property
    def settled(self) -> int:
        return self.done + self.lost

    @classmethod
    def of(cls, role: Role, total: int, *tallies: StageParts) -> Stage:
        done = sum(len(one.done) for one in tallies)
        lost = sum(len(one.lost - one.done) for one in tallies)
        return cls(role, done, lost, sum(len(one.running) for one in tallies), total)


def stages_of(study: Study, state: State, name: str) -> list[Stage]:
    """The stages that an arm has; what runs or ran of all arms adds up to ``graph.count_parts``."""
    return list(_stages(study, state, name))


def _stages(study: Study, state: State, name: str) -> Iterator[Stage]:
    search, trials, seeds = study.arms[name].search, state.searches[name], state.repeats[name]
    if search:
        found = len(trials.settled) + len(trials.running)
        yield Stage.of("search", found if name in state.matched else search.trials, trials)
    yield Stage.of("repeat", len(study.seeds), seeds)
    if made := [key for key in state.maps if key[0] == name]:
        total = sum(len(graph.maps_seeds(study, key)) for key in made)
        yield Stage.of("targets", total, *(state.maps[key] for key in made))
    if study.checks:
        yield Stage.of("checks", len(study.seeds) - len(seeds.lost), state.checks[name])


def parents(study: Study) -> dict[str, str | None]:
    """Each arm and the one that it hangs on in the tree, top down: of the arms that it needs, the one furthest down."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = 1 + max(map(depth, study.arms[name].needs), default=0)
        return depths[name]

    above = {name: max(arm.needs, key=depth, default=None) for name, arm in study.arms.items()}

    def below(name: str | None) -> Iterator[str]:
        for one in (child for child, parent in above.items() if parent == name):
            yield one
            yield from below(one)

    return {name: above[name] for name in below(None)}
