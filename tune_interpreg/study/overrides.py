"""Sections within an arm: their keys replace those of the study's section, the others are the study's.

These functions read the content of a study file, before it is checked. An arm's section is thus checked as a whole, and
an arm of a ``Study`` holds whole sections.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

#: Sections of a study that an arm may override.
OVERRIDABLE = ("model", "training", "attack")


def complete_arms(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a study with whole sections in its arms. Completing it again changes nothing."""
    arms = study.get("arms")
    if not isinstance(arms, Mapping):
        return dict(study)
    return {**study, "arms": {name: _complete(study, arm) for name, arm in arms.items()}}


def _complete(study: Mapping[str, Any], arm: Any) -> Any:
    if not isinstance(arm, Mapping):
        return arm
    present = [name for name in OVERRIDABLE if arm.get(name) is not None]
    return {**arm, **{name: override(study.get(name), arm[name]) for name in present}}


def override(base: Any, changes: Any) -> Any:
    """Return a section with the keys in ``changes`` replaced.

    A network that is named takes none of the base's options. Another optimizer takes none of the base's settings of
    momentum, and another norm not the base's length of a step.
    """
    if isinstance(changes, str):
        return changes
    base, changes = _flatten(base), _flatten(changes)
    if not isinstance(changes, Mapping) or not isinstance(base, Mapping) or "name" in changes:
        return changes
    optimizer = base.get("optimizer", "sgd")
    if changes.get("optimizer", optimizer) != optimizer:
        base = {key: value for key, value in base.items() if key not in ("momentum", "nesterov")}
    if changes.get("norm", base.get("norm", "l2")) != base.get("norm", "l2"):
        base = {key: value for key, value in base.items() if key != "step_size"}
    return {**base, **changes}


def _flatten(section: Any) -> Any:
    """Return a section as a mapping, with the options of a network next to its name; a wrong type as it is."""
    if isinstance(section, BaseModel):
        section = section.model_dump()
    if isinstance(section, str):
        return {"name": section}
    if section is None:
        return {}
    if not isinstance(section, Mapping) or not isinstance(section.get("options"), Mapping):
        return section
    return {key: value for key, value in section.items() if key != "options"} | dict(section["options"])
