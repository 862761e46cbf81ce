"""The progress of each arm, stage by stage, and the tree of arms: what displays show of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import StageParts, State
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Role

#: The names of the stages for users, in the order in which an arm goes through them.
STAGE_NAMES: dict[Role, str] = {"search": "search", "repeat": "repeats", "targets": "maps", "checks": "checks"}


@dataclass(frozen=True)
class Stage:
    """Numbers of parts of an arm's stage: done, given up, running, and in total as far as it is known."""

    role: Role
    done: int
    lost: int
    running: int
    total: int

    @property
    def settled(self) -> int:
        return self.done + self.lost


def stages_of(study: Study, state: State, name: str) -> list[Stage]:
    """Return the stages of an arm. The totals of all arms add up to ``graph.count_parts``."""
    search, trials, repeats = study.arms[name].search, state.searches[name], state.repeats[name]
    stages = []
    if search:
        started = len(trials.settled) + len(trials.running)
        stages.append(_count("search", started if name in state.matched else search.trials, [trials]))
    stages.append(_count("repeat", len(study.seeds), [repeats]))
    keys = [key for key in state.maps if key[0] == name]
    if keys:
        total = sum(len(graph.maps_seeds(study, key)) for key in keys)
        stages.append(_count("targets", total, [state.maps[key] for key in keys]))
    if study.checks:
        stages.append(_count("checks", len(study.seeds) - len(repeats.lost), [state.checks[name]]))
    return stages


def parents(study: Study) -> dict[str, str | None]:
    """Return each arm's parent in the tree, top down: of the arms that it needs, the one deepest in the tree."""
    depths: dict[str, int] = {}
    for name in study.arms_in_order():
        depths[name] = 1 + max((depths[other] for other in study.arms[name].needs), default=0)
    parent = {name: max(arm.needs, key=depths.__getitem__, default=None) for name, arm in study.arms.items()}

    def below(name: str | None) -> Iterator[str]:
        for child in parent:
            if parent[child] == name:
                yield child
                yield from below(child)

    return {name: parent[name] for name in below(None)}


def _count(role: Role, total: int, stages: Sequence[StageParts]) -> Stage:
    done = sum(len(stage.done) for stage in stages)
    lost = sum(len(stage.lost - stage.done) for stage in stages)
    return Stage(role, done, lost, sum(len(stage.running) for stage in stages), total)
