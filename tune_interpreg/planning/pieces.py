"""The pieces of work whose times make up those of a study's items, named by all that their times depend on.

Strengths, learning rates and the number of epochs are no part of a name: a piece that was measured for one study tells
the time of another one that differs in these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tune_interpreg import registry
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import MapsOf, Task
from tune_interpreg.study.config import Arm, MapSettings, Study, Training
from tune_interpreg.study.fields import Frozen, Param
from tune_interpreg.study.items import Checked, Item, Maps, Recipe, digest
from tune_interpreg.study.space import Parameter

#: The key of the model that is judged and explained while it is measured, and the strength of all penalties.
MODEL, STRENGTH = "probe", 0.01

#: Epochs of a training that is measured: it never comes to its final evaluation.
ENDLESS = 10**9


class Piece(Frozen):
    """Work whose time is measured.

    kind: ``training`` is an epoch of it; ``judging`` a validation under attack and the final evaluation of one model;
    ``maps`` those of one teacher; ``checks`` those of one model. item: as a worker is told it.
    tests: how many images the final evaluation has. cpus, gpus: of a worker.
    """

    kind: Literal["training", "judging", "maps", "checks"]
    item: Item
    tests: int = 0
    cpus: float = 1
    gpus: float = 0

    @property
    def key(self) -> str:
        return digest([self.kind, self.item.key, self.tests, self.cpus, self.gpus > 0])

    @property
    def title(self) -> str:
        """For people."""
        if self.kind != "training":
            return self.kind
        seeds = len(self.item.seeds)
        return f"{self.item.recipe.method}{f', {seeds} seeds at once' if seeds > 1 else ''}"


def pieces(study: Study, task: Task, tests: int) -> dict[str, Piece]:
    """What the task's time is made of, by kind. tests: how many images the final evaluation has."""
    if task.role == "targets":
        key = graph.maps_of(study.arms[task.arm])
        assert key is not None
        return {"maps": _maps(study, key)}
    if task.role == "checks":
        return {"checks": _checks(study)}
    seeds = len(task.parts) if task.role == "repeat" else 1
    return {"training": _training(study, study.arms[task.arm], seeds), "judging": _judging(study, tests)}


def probe(study: Study) -> Item:
    """The training of the model that is judged and explained."""
    return Item(arm=MODEL, role="search", recipe=Recipe.of(study, method="standard"), seeds=(0,), adversarial=False)


def _training(study: Study, arm: Arm, seeds: int) -> Piece:
    permute = arm.targets.permute if arm.targets else None
    maps = Maps(teacher=MODEL, teacher_seed=0, permute=permute) if arm.targets else None
    recipe = _recipe(study, method=arm.method, params=_params(arm), maps=maps)
    item = Item(arm=MODEL, role="search", recipe=recipe, seeds=tuple(range(seeds)), adversarial=False)
    return Piece(kind="training", item=item, **_worker(study))


def _judging(study: Study, tests: int) -> Piece:
    recipe = _recipe(study, method="checks", checked=Checked(model=MODEL, seed=0, images=1))
    item = Item(arm=MODEL, role="checks", recipe=recipe, seeds=(0,))
    return Piece(kind="judging", item=item, tests=tests, **_worker(study))


def _maps(study: Study, key: MapsOf) -> Piece:
    maps = Maps(teacher=MODEL, teacher_seed=0, **key[1].model_dump(include=set(MapSettings.model_fields)))
    item = Item(arm=MODEL, role="targets", recipe=_recipe(study, method="targets", maps=maps), seeds=(0,))
    return Piece(kind="maps", item=item, **_worker(study))


def _checks(study: Study) -> Piece:
    assert study.checks is not None
    sources = dict.fromkeys(graph.sources(study), MODEL)
    checked = Checked(model=MODEL, seed=0, sources=sources, **study.checks.model_dump())
    item = Item(arm=MODEL, role="checks", recipe=_recipe(study, method="checks", checked=checked), seeds=(0,))
    return Piece(kind="checks", item=item, **_worker(study))


def _recipe(study: Study, **own: Any) -> Recipe:
    """With all that the study's trials share, but for the number of epochs and their rates."""
    rates = {name: getattr(Training(), name) for name in ("lr", "momentum", "lr_decay", "decay_every", "schedule")}
    training = study.training.model_copy(update={"epochs": ENDLESS, **rates})
    return Recipe.of(study.model_copy(update={"training": training}), **own)


def _worker(study: Study) -> dict[str, float]:
    return {"cpus": study.resources.cpus, "gpus": study.resources.gpus}


def _params(arm: Arm) -> dict[str, Param]:
    """The arm's parameters, as the time depends on them: a searched one's first value; all strengths are the same."""
    searched = {name: span.extremes()[0] for name, span in arm.search.ranges.items()} if arm.search else {}
    known: Mapping[str, Parameter] = registry.method(arm.method).parameters
    return {name: _value(one, (arm.params | searched).get(name)) for name, one in known.items()}


def _value(parameter: Parameter, given: Param | None) -> Param:
    value = parameter.default if given is None else given
    if parameter.choices or parameter.whole:
        assert value is not None
        return value
    return parameter.default if parameter.default is not None else min(max(STRENGTH, parameter.low), parameter.high)
