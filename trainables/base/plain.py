"""A method under a plain ``ray.tune.Tuner``: what its configuration takes, and all that is wrong with one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError, field_validator

from trainables.base.job import Job
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Frozen, shown
from tune_interpreg.study.file.rules import instead
from tune_interpreg.study.items import Item, Recipe
from tune_interpreg.study.space import Parameter

Model = TypeVar("Model", bound=Frozen)

#: The keys of a study file that a plain configuration takes as well.
SETTING = ("data", "model", "training", "attack", "evaluation")


class ConfigError(ValueError):
    """A plain configuration that a method cannot take; the message lists all that is wrong with it."""


class Plain(Frozen):
    """The keys of a plain configuration beside ``SETTING`` and the method's own parameters.

    seed: one or several. maps: an .npy file of raw target maps of all training images, N·C·H·W, for methods
    that need targets. test: whether to evaluate on the test split after the last epoch. device: of the training.
    """

    seed: int | tuple[int, ...] = 0
    maps: str | None = None
    test: bool = False
    device: str = "cpu"

    @field_validator("seed")
    @classmethod
    def _distinct(cls, seed: int | tuple[int, ...]) -> tuple[int, ...]:
        seeds = seed if isinstance(seed, tuple) else (seed,)
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError("takes a seed, or several different ones")
        return seeds

    @field_validator("maps")
    @classmethod
    def _exists(cls, maps: str | None) -> str | None:
        if maps is not None and not Path(maps).is_file():
            raise ValueError("no such file; Tune's workers run in folders of their own, so give an absolute path")
        return maps

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.seed if isinstance(self.seed, tuple) else (self.seed,)


def job(
    config: Mapping[str, Any], *, method: str, parameters: Mapping[str, Parameter], needs_targets: bool = False
) -> Job:
    """The job that a plain configuration describes; raises ``ConfigError`` with every problem in it.

    method: the name that results carry. parameters, needs_targets: the method's own.
    """
    config = _native(config)
    params = {key: config[key] for key in parameters if key in config}
    found = [*_unknown(config, parameters), *_parameters(params, parameters)]
    if needs_targets and config.get("maps") is None:
        found.append("maps: is needed: an .npy file of raw SmoothGrad maps of all training images")
    if not needs_targets and config.get("maps") is not None:
        found.append("maps: the method takes no target maps; drop them")
    own = _read(Plain, {key: config[key] for key in Plain.model_fields if key in config}, found)
    setting = {key: config[key] for key in SETTING if key in config}
    study = _read(Study, setting | {"arms": {"plain": {"method": method}}}, found)
    if found or own is None or study is None:
        raise ConfigError(f"{method} cannot take this configuration:\n" + "\n".join(found))
    recipe = Recipe.of(study, method=method, params=params)
    item = Item(arm=method, role="repeat" if own.test else "search", recipe=recipe, seeds=own.seeds)
    return Job(item, own.device, maps=Path(own.maps) if own.maps else None)


def _native(value: Any) -> Any:
    """Samplers may draw NumPy's scalars; configurations and records hold Python's."""
    if isinstance(value, Mapping):
        return {key: _native(below) for key, below in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _unknown(config: Mapping[str, Any], parameters: Collection[str]) -> Iterator[str]:
    known = [*parameters, *SETTING, *Plain.model_fields]
    yield from (f"{key}: unknown key; {instead(key, known)}" for key in config if key not in known)


def _parameters(params: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> Iterator[str]:
    for name, parameter in parameters.items():
        if name not in params and parameter.default is None:
            yield f"{name}: is needed ({parameter.help})"
        elif name in params and (problem := parameter.problem(params[name])):
            yield f"{name}: {problem}"


def _read(model: type[Model], given: Mapping[str, Any], found: list[str]) -> Model | None:
    """``given`` as a ``model``, or None, with the reasons added to ``found``."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        for one in error.errors():
            place = ".".join(map(str, one["loc"]))
            found.append(f"{place}: {one['msg'].removeprefix('Value error, ')}, got {shown(one['input'])}")
        return None
