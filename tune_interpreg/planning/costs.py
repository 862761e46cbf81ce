"""Seconds of a study's tasks: added up from measured times, or taken from records of similar items."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from tune_interpreg import registry
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.schedule.graph import Task
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item, Role
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.recipe import Maps, Recipe

#: Measured seconds by unit of work. Per image: ``clean``, ``compat``, ``strict``, ``norms``, ``autoattack``. Per image
#: and noisy copy of a set of maps: ``copy``. Per model: ``checks``. Of a training, after its ``training_item``'s key
#: and a slash: ``setup`` per training, ``epoch`` per epoch without its steps, ``step`` per step.
Seconds = dict[str, float]

#: Tasks with the same cost: arm, role, and the number of seeds trained or of noisy copies per map.
Group = tuple[str, Role, int]

#: The strength of all penalties in a measurement.
STRENGTH = 0.01

#: Number of epochs of a measured training: it never reaches its final evaluation. Its learning rate keeps the weights.
ENDLESS, STANDSTILL = 10**9, 1e-9

#: Seconds that Ray adds per item, to hand it over, and per result of an epoch.
ITEM, RESULT = 0.05, 0.01


# ------------------------------------------------------------------------ measured trainings
def training_item(study: Study, task: Task) -> Item:
    """Return the training that is measured for a task. Its key depends only on options that change the time."""
    arm = study.arms[task.arm]
    maps = Maps(teacher="", teacher_seed=0, permute=arm.targets.permute) if arm.targets else None
    searched = {name: span.extremes()[0] for name, span in arm.search.ranges.items()} if arm.search else {}
    values, parameters = {**searched, **arm.params}, registry.load_method(arm.method).parameters
    params = {name: _typical_value(parameter, values.get(name)) for name, parameter in parameters.items()}
    seeds = len(task.parts) if task.role == "repeat" else 1
    return _item(study, task.arm, tuple(range(seeds)), STANDSTILL, method=arm.method, params=params, maps=maps)


def probe_item(study: Study) -> Item:
    """Return the training of the model that is judged, explained and checked in a measurement."""
    return _item(study, "probe", (0,), study.training.lr, method="standard")


def _typical_value(parameter: Parameter, value: Scalar | None) -> Scalar:
    """Return the arm's own value of a choice or a count, which change the time, and a usual strength for the rest."""
    if value is not None and (parameter.choices or parameter.integer):
        return value
    return parameter.default if parameter.default is not None else min(max(STRENGTH, parameter.low), parameter.high)


def _item(study: Study, arm: str, seeds: tuple[int, ...], lr: float, **recipe: Any) -> Item:
    training = study.training.model_copy(update={"epochs": ENDLESS, "lr": lr})
    setting = Recipe.from_study(study.model_copy(update={"training": training}), **recipe)
    return Item(arm=arm, role="search", recipe=setting, seeds=seeds, adversarial=False)


# ------------------------------------------------------------------------- seconds of a task
def group_of(task: Task) -> Group:
    """Return the group of a task."""
    return task.arm, task.role, task.maps.samples if task.maps else len(task.parts)


def add_up(study: Study, data: Dataset, tests: int, measured: Seconds, task: Task) -> float:
    """Return the seconds of a task from measured ones; ``tests`` is the number of test images."""
    images, validation = len(data.train), len(data.validation)
    if task.maps:
        return images * (task.maps.samples + task.maps.include_clean) * measured["copy"]
    if task.role == "checks":
        return measured["checks"]
    key, evaluation, epochs = training_item(study, task).key, study.evaluation, study.training.epochs
    steps = images // study.training.batch_size
    training = measured[f"{key}/setup"] + epochs * (measured[f"{key}/epoch"] + steps * measured[f"{key}/step"])
    judging = validation * (epochs * measured["clean"] + count_attacked(study, task) * measured["strict"])
    if task.role == "search":
        return training + judging
    judging += tests * (measured["clean"] + measured["compat"] + measured["strict"])
    judging += min(evaluation.gradient_samples or images, images) * measured["norms"]
    judging += (evaluation.autoattack or 0) * measured.get("autoattack", 0.0)
    return training + len(task.parts) * judging


def add_ray(study: Study, task: Task) -> float:
    """Return the seconds that Ray adds to a task."""
    return ITEM + RESULT * (study.training.epochs if task.role in ("search", "repeat") else 0)


def count_attacked(study: Study, task: Task) -> int:
    """Return how many validations of a training are under attack: when due, and after the last epoch."""
    search, epochs = study.arms[task.arm].search, study.training.epochs
    if task.role == "search" and search and not search.attacks_trials:
        return 0
    return -(-epochs // (study.evaluation.adversarial_every or epochs))


def recorded_seconds(study: Study, records: Iterable[Record]) -> dict[Group, float]:
    """Return the mean seconds of finished items. Results copied from an equal item took none and do not count."""
    seconds: defaultdict[Group, list[float]] = defaultdict(list)
    for record in records:
        same_device = (record.get("device") != "cpu") == bool(study.resources.gpus)
        if record["state"] == "done" and record["seconds"] > 0 and same_device:
            maps = record["recipe"]["maps"] if record["role"] == "targets" else None
            count = maps["samples"] if maps else len(record["seeds"])
            seconds[record["arm"], record["role"], count].append(record["seconds"])
    return {group: fmean(values) for group, values in seconds.items()}
