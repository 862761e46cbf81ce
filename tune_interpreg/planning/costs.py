"""Seconds of a study's items: added up from measured pieces, or taken from records of similar items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from tune_interpreg import registry
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import Task
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Arm, Study, Training
from tune_interpreg.study.fields import Frozen, Scalar
from tune_interpreg.study.items import Item, Role
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.recipe import CheckedModel, Maps, Recipe, digest

#: Key of the model that stands for every trained model in a measurement, and the strength of all penalties in it.
MODEL, STRENGTH = "probe", 0.01

#: Number of epochs of a measured training: it never reaches its final evaluation.
ENDLESS = 10**9

#: Seconds that Ray adds per item, to hand it over, and per result of an epoch.
ITEM, RESULT = 0.05, 0.01


class Piece(Frozen):
    """A piece of work with a measured time. Arms with the same method and options share one.

    Seconds by kind: ``training``: ``setup`` per item, ``epoch`` per epoch without its steps, ``step`` per step.
    ``judging``: ``clean``, ``compat``, ``strict``, ``norms``, ``autoattack`` per image. ``maps``: ``image`` per image.
    ``checks``: ``model`` per model.
    """

    kind: Literal["training", "judging", "maps", "checks"]
    item: Item

    @property
    def key(self) -> str:
        return digest([self.kind, self.item.key])

    @property
    def title(self) -> str:
        """Name for messages."""
        seeds = f", {len(self.item.seeds)} seeds at once" if len(self.item.seeds) > 1 else ""
        return f"{self.item.recipe.method}{seeds}" if self.kind == "training" else self.kind


@dataclass(frozen=True)
class Sizes:
    """Numbers of images. evaluated: in the final evaluation."""

    train: int
    validation: int
    evaluated: int


def pieces_of(study: Study, task: Task) -> dict[str, Piece]:
    """Return the pieces that make up the time of a task, by kind."""
    if task.maps:
        maps = Maps(teacher=MODEL, teacher_seed=0, **task.maps.model_dump())
        return {"maps": Piece(kind="maps", item=_item(study, "targets", method="targets", maps=maps))}
    if task.role == "checks":
        assert study.checks is not None
        sources = dict.fromkeys(graph.attack_sources(study), MODEL)
        checked = CheckedModel(model=MODEL, seed=0, sources=sources, **study.checks.model_dump())
        return {"checks": Piece(kind="checks", item=_item(study, "checks", method="checks", checked=checked))}
    seeds = len(task.parts) if task.role == "repeat" else 1
    return {
        "training": Piece(kind="training", item=_training_item(study, study.arms[task.arm], seeds)),
        "judging": Piece(kind="judging", item=probe_item(study)),
    }


def probe_item(study: Study) -> Item:
    """Return the training of the model that is judged, explained and checked in a measurement."""
    return _item(study, "search", method="standard", adversarial=False)


def _training_item(study: Study, arm: Arm, seeds: int) -> Item:
    maps = Maps(teacher=MODEL, teacher_seed=0, permute=arm.targets.permute) if arm.targets else None
    searched = {name: span.extremes()[0] for name, span in arm.search.ranges.items()} if arm.search else {}
    parameters: Mapping[str, Parameter] = registry.load_method(arm.method).parameters
    values = {**searched, **arm.params}
    params = {name: _typical_value(parameter, values.get(name)) for name, parameter in parameters.items()}
    return _item(
        study, "search", method=arm.method, params=params, maps=maps, seeds=tuple(range(seeds)), adversarial=False
    )


def _typical_value(parameter: Parameter, value: Scalar | None) -> Scalar:
    """Return the arm's own value of a choice or a count, which change the time, and a usual strength for the rest."""
    value = parameter.default if value is None else value
    if parameter.choices or parameter.integer:
        assert value is not None
        return value
    return parameter.default if parameter.default is not None else min(max(STRENGTH, parameter.low), parameter.high)


def _item(study: Study, role: Role, *, seeds: tuple[int, ...] = (0,), adversarial: bool = True, **recipe: Any) -> Item:
    """Return an item with the study's setting, except what does not change the time: epochs and learning rates."""
    rates = {name: getattr(Training(), name) for name in ("lr", "momentum", "lr_decay", "decay_every", "schedule")}
    training = study.training.model_copy(update={"epochs": ENDLESS, **rates})
    shared = study.model_copy(update={"training": training})
    return Item(arm=MODEL, role=role, recipe=Recipe.from_study(shared, **recipe), seeds=seeds, adversarial=adversarial)


# ------------------------------------------------------------------------- from pieces to items
#: Items with the same cost: arm, role, and the number of seeds trained or of noisy copies per map.
Group = tuple[str, Role, int]


def group_of(task: Task) -> Group:
    """Return the group of a task."""
    return task.arm, task.role, task.maps.samples if task.maps else len(task.parts)


class CostModel:
    """The seconds of any task of a study.

    ``measured`` holds the seconds of pieces: key → unit → seconds (see ``Piece``).

    Args:
        records: of this study. Their seconds are the best estimate for further items of their group.
        on_ray: whether Ray hands the items over.
    """

    def __init__(self, study: Study, sizes: Sizes, records: Iterable[Record] = (), *, on_ray: bool = True):
        self.study, self.sizes, self.on_ray = study, sizes, on_ray
        self.measured: Mapping[str, Mapping[str, float]] = {}
        self._recorded = _mean_seconds(study, records)
        self._estimates: dict[Group, float] = {}

    def unmeasured(self, tasks: Iterable[Task]) -> dict[str, Piece]:
        """Return the pieces, by key, that these tasks need and that no record replaces."""
        groups = {group_of(task): task for task in tasks}
        needed = [task for group, task in groups.items() if group not in self._recorded]
        pieces = [piece for task in needed for piece in pieces_of(self.study, task).values()]
        return {piece.key: piece for piece in pieces if piece.key not in self.measured}

    def seconds(self, task: Task) -> float:
        """Return the seconds for which a task occupies a worker."""
        group = group_of(task)
        if group not in self._estimates:
            self._estimates[group] = self._recorded.get(group) or self._add_up(task)
        epochs = self.study.training.epochs if task.role in ("search", "repeat") else 0
        return self._estimates[group] + self.on_ray * (ITEM + RESULT * epochs)

    def _add_up(self, task: Task) -> float:
        costs = {kind: self.measured[piece.key] for kind, piece in pieces_of(self.study, task).items()}
        if task.role == "targets":
            return self.sizes.train * costs["maps"]["image"]
        if task.role == "checks":
            return costs["checks"]["model"]
        study, training, judging = self.study, costs["training"], costs["judging"]
        steps = self.sizes.train // study.training.batch_size
        epochs = study.training.epochs * (training["epoch"] + steps * training["step"])
        validation = study.training.epochs * judging["clean"] + count_attacked(study, task) * judging["strict"]
        judged = self.sizes.validation * validation
        if task.role == "repeat":
            norms = min(study.evaluation.gradient_samples or self.sizes.train, self.sizes.train)
            judged += self.sizes.evaluated * (judging["clean"] + judging["compat"] + judging["strict"])
            judged += norms * judging["norms"] + (study.evaluation.autoattack or 0) * judging["autoattack"]
        seeds = len(task.parts) if task.role == "repeat" else 1
        return training["setup"] + epochs + seeds * judged


def count_attacked(study: Study, task: Task) -> int:
    """Return how many validations of a training are under attack."""
    search = study.arms[task.arm].search
    if task.role == "search" and search and not search.attacks_trials:
        return 0
    epochs, every = study.training.epochs, study.evaluation.adversarial_every
    return sum(epoch == epochs or bool(every and epoch % every == 0) for epoch in range(1, epochs + 1))


def _mean_seconds(study: Study, records: Iterable[Record]) -> dict[Group, float]:
    """Return the mean seconds of finished items. Results copied from an equal item took none and do not count."""
    seconds: defaultdict[Group, list[float]] = defaultdict(list)
    for record in records:
        same_device = (record.get("device") != "cpu") == bool(study.resources.gpus)
        maps = record["recipe"]["maps"] if record["role"] == "targets" else None
        if record["state"] == "done" and record["seconds"] > 0 and same_device:
            count = maps["samples"] if maps else len(record["seeds"])
            seconds[record["arm"], record["role"], count].append(record["seconds"])
    return {group: fmean(values) for group, values in seconds.items()}
