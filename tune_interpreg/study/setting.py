"""The setting of one training: the study's, with what its arm overrides and what its search varies.

A dotted name such as ``training.lr`` names a key of a section. A recipe, as a record holds it, has all of these values;
``read_params`` and ``list_settings`` read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tune_interpreg.study.config import Arm, Attack, MapSettings, Model, Study, Training
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.overrides import override
from tune_interpreg.study.problems import Place

#: Sections with keys that determine a training, and that an arm may override.
SECTIONS: dict[str, type[Model | Training | Attack]] = {"model": Model, "training": Training, "attack": Attack}

#: Values of the keys that records of earlier versions lack.
_DEFAULTS = {
    f"{name}.{key}": value
    for name, section in SECTIONS.items()
    for key, value in section().model_dump(mode="json", exclude={"options"}).items()
}
_DEFAULTS["data.train_limit"] = None


class Setting(NamedTuple):
    """The part of a recipe next to its method, its parameters, its maps and the study's data.

    train_limit: training images, a stratified subset of the study's; None: all.
    """

    model: Model
    training: Training
    attack: Attack
    train_limit: int | None


def arm_setting(study: Study, name: str, searched: Mapping[str, Any] | None = None) -> Setting:
    """Return the setting of an arm's trainings.

    searched: values of searched parameters; those without a dot belong to the method, and do not count here.

    Raises ``ValidationError`` if a section refuses a value.
    """
    arm = study.arms[name]
    sections: dict[str, Any] = {section: getattr(arm, section) or getattr(study, section) for section in SECTIONS}
    limit = arm.data.train_limit if arm.data else None
    changes: dict[str, dict[str, Any]] = {}
    for parameter, value in (searched or {}).items():
        section, _, key = parameter.partition(".")
        if parameter == "data.train_limit":
            limit = value
        elif key and section in SECTIONS:
            changes.setdefault(section, {})[key] = value
    for section, values in changes.items():
        sections[section] = SECTIONS[section].model_validate(override(sections[section], values))
    return Setting(**sections, train_limit=limit)


def map_settings(arm: Arm, searched: Mapping[str, Any]) -> MapSettings | None:
    """Return the settings of the maps that an arm trains towards, with these searched parameters; None without maps."""
    if arm.targets is None:
        return None
    changes = {name.removeprefix("targets."): x for name, x in searched.items() if name.startswith("targets.")}
    return MapSettings.model_validate(override(arm.targets.map_settings, changes))


def list_possible_settings(study: Study) -> Iterator[tuple[Place, Setting]]:
    """Yield the settings that trainings of a study may have, each with its place in the study file."""
    for name, arm in study.arms.items():
        ranges = arm.search.ranges if arm.search else {}
        first = {key: span.extremes()[0] for key, span in ranges.items()}
        yield ("arms", name), arm_setting(study, name, first)
        if arm.search and arm.search.fidelity:
            yield ("arms", name, "search"), arm_setting(study, name, first | arm.search.fidelity)
        for key, span in ranges.items():
            kind = "grid" if arm.search and arm.search.grid else "space"
            for value in span.extremes() if "." in key else ():
                yield ("arms", name, "search", kind, key), arm_setting(study, name, first | {key: value})


def list_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted name → value of a recipe's settings. Those of its network's options have values if they are set.

    recipe: a dumped ``Recipe``, or the fields of a dumped ``Setting``; of this version or an earlier one.
    """
    settings = dict(_DEFAULTS)
    for section in SECTIONS:
        content = recipe[section]
        settings |= {f"{section}.{key}": value for key, value in content.items() if key != "options"}
    settings |= {f"model.{key}": value for key, value in recipe["model"].get("options", {}).items()}
    settings["data.train_limit"] = recipe.get("train_limit")
    return settings


def dump_setting(setting: Setting) -> dict[str, Any]:
    """Return the settings of ``list_settings``."""
    sections = {section: getattr(setting, section).model_dump(mode="json") for section in SECTIONS}
    return list_settings(sections | {"train_limit": setting.train_limit})


def list_overrides(study: Study, name: str) -> dict[str, Any]:
    """Return dotted name → value of an arm's settings that differ from the study's."""
    return _list_differences(study, dump_setting(arm_setting(study, name)))


def describe_training(study: Study, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a recipe's method, and its settings that differ from the study's."""
    return {**recipe["params"], **_list_differences(study, list_settings(recipe))}


def _list_differences(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    sections = {section: getattr(study, section).model_dump(mode="json") for section in SECTIONS}
    shared = list_settings(sections)
    return {key: value for key, value in settings.items() if key not in shared or shared[key] != value}


def read_params(recipe: Mapping[str, Any], names: Iterable[str]) -> dict[str, Scalar]:
    """Return the values of parameters in a recipe: of its method, or dotted. Those that it lacks are left out."""
    names = list(names)
    values = recipe["params"]
    if any("." in name for name in names):
        values = values | list_settings(recipe)
        maps = (recipe.get("maps") or {}).get("settings") or {}
        values |= {f"targets.{name}": value for name, value in maps.items()}
    return {name: values[name] for name in names if name in values}
