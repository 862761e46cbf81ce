"""A job and where it runs, from a study or from the configuration of a plain ``ray.tune.Tuner``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from tune_interpreg.data.dataset import Dataset, check_fingerprint, load_dataset
from tune_interpreg.registry import suggest
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data, Seed, Study
from tune_interpreg.study.fields import Frozen, check_distinct, format_value
from tune_interpreg.study.file.messages import describe_error
from tune_interpreg.study.items import Job, Train, judgments
from tune_interpreg.study.measures import list_repeat_questions, observe
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.recipe import Recipe

Section = TypeVar("Section", bound=Frozen)

#: Keys of a study file that a plain configuration takes as well.
SETTING = ("data", "model", "training", "attack", "evaluation")


class ConfigError(ValueError):
    """A plain configuration that does not suit its method; the message lists all problems."""


def _as_tuple(seed: Any) -> Any:
    return seed if isinstance(seed, list | tuple) else (seed,)


class PlainOptions(Frozen):
    """Keys of a plain configuration other than SETTING and the method's parameters."""

    seed: Annotated[tuple[Seed, ...], AfterValidator(check_distinct), BeforeValidator(_as_tuple)] = Field(
        (0,), min_length=1, description="Seed, or several seeds that train together."
    )
    maps: str | None = Field(None, description=".npy file of raw target maps of all training images, N·C·H·W.")
    teacher: str | None = Field(None, description=".safetensors file of a teacher's weights, of the same network.")
    test: bool = Field(False, description="Evaluate on the test split after the last epoch.")
    device: str = Field("cpu", description="Device of the training.")


@dataclass(frozen=True)
class Assignment:
    """A job, its device, its store (None under a plain Tuner), and the files of its raw maps and its teacher if any."""

    job: Job
    device: str
    store: Store | None = None
    maps: Path | None = None
    teacher: Path | None = None

    @classmethod
    def from_study(cls, config: Mapping[str, Any]) -> Assignment:
        """Return the assignment that a study's driver gives a worker."""
        job, store = Job.model_validate(config["job"]), Store(config["store"], config.get("driver"))
        maps = store.maps_file(job.recipe.maps.key) if job.recipe.maps else None
        teacher = store.model_file(job.recipe.teacher.key) if job.recipe.teacher else None
        return cls(job, config["device"], store, maps, teacher)

    @classmethod
    def from_plain_config(cls, config: Mapping[str, Any], kind: Any) -> Assignment:
        """Return the assignment that a plain configuration describes: SETTING, PlainOptions and parameters.

        Its models are judged on the validation split and, with ``test``, as a study judges repeats.

        Args:
            kind: class of the method. Its name stands for the method in results.

        Raises:
            ConfigError: with all problems of the configuration.
        """
        config, method = _to_python(config), kind.__name__
        params = {key: config[key] for key in kind.parameters if key in config}
        problems = _find_problems(config, kind)
        options = _validate(PlainOptions, {k: config[k] for k in PlainOptions.model_fields if k in config}, problems)
        setting = {key: config[key] for key in SETTING if key in config}
        study = _validate(Study, setting | {"arms": {"plain": {"method": method}}}, problems)
        if problems or options is None or study is None:
            raise ConfigError(f"{method} cannot take this configuration:\n" + "\n".join(problems))
        recipe = Recipe.from_study(study, method=method, params=params)
        models = tuple(Train(recipe=recipe, seed=seed) for seed in options.seed)
        asked = [asked for asked in list_repeat_questions(study) if options.test or asked.split == "validation"]
        job = Job(
            arm=method,
            stage="repeats",
            models=models,
            trains=True,
            work=tuple(judgment for model in models for judgment in judgments(model.key, asked)),
            observation=observe(study),
            batch_size=study.evaluation.batch_size,
        )
        maps, teacher = (Path(file) if file else None for file in (options.maps, options.teacher))
        return cls(job, options.device, maps=maps, teacher=teacher)

    def load_data(self) -> Dataset:
        """Return the training and validation images on the device.

        Raises:
            DataError: this machine's images are not the study's.
        """
        recipe = self.job.recipe
        images = _load_on_device(recipe.data.model_dump_json(), self.device)
        check_fingerprint(recipe.data, recipe.data_fingerprint.partition("-")[0], images.fingerprint)
        return images


@lru_cache(maxsize=2)  # a reused worker reads its images once
def _load_on_device(data_json: str, device: str) -> Dataset:
    images = load_dataset(Data.model_validate_json(data_json))
    return replace(images, train=images.train.to(device), validation=images.validation.to(device))


def _to_python(value: Any) -> Any:
    """Return a configuration with Python's scalars in place of NumPy's, which some samplers draw."""
    if isinstance(value, Mapping):
        return {key: _to_python(below) for key, below in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _find_problems(config: Mapping[str, Any], kind: Any) -> list[str]:
    """Return the problems of a configuration's keys, of the parameters of the method ``kind``, and of its files."""
    parameters: Mapping[str, Parameter] = kind.parameters
    keys = [*parameters, *SETTING, *PlainOptions.model_fields]
    problems = [f"{key}: unknown key; {suggest(key, keys)}" for key in config if key not in keys]
    for name, parameter in parameters.items():
        if name not in config and parameter.required:
            problems.append(f"{name}: is needed ({parameter.help})")
        elif name in config and (problem := parameter.find_problem(config[name])):
            problems.append(f"{name}: {problem}")
    for key, is_needed, content in (
        ("maps", kind.needs_targets, "an .npy file of raw SmoothGrad maps of all training images"),
        ("teacher", kind.needs_teacher, "a .safetensors file of a teacher's weights, of the same network"),
    ):
        file = config.get(key)
        if is_needed and not (isinstance(file, str) and Path(file).is_file()):
            problems.append(
                f"{key}: takes {content}, by its absolute path, because Tune's workers run in folders of their own; "
                f"got {format_value(file)}"
            )
        if not is_needed and file is not None:
            problems.append(f"{key}: the method takes none; drop it")
    return problems


def _validate(section: type[Section], values: Mapping[str, Any], problems: list[str]) -> Section | None:
    """Return ``values`` as a ``section``; None, with the reasons appended to ``problems``, if they do not fit."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            problems.append(f"{'.'.join(map(str, detail['loc']))}: {describe_error(detail)}")
        return None
