"""Rules that no single section can check: registered names, parameters of methods, edges between arms.

They read the file's own mappings, so that a mistake elsewhere in an arm hides none of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tune_interpreg import registry
from tune_interpreg.study.config import Arm, Data, Model
from tune_interpreg.study.fields import Frozen, format_value
from tune_interpreg.study.file import options
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.problems import Finding, Place, suggest
from tune_interpreg.study.space import Range

Section = Mapping[str, Any]

_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def find_problems(raw: Section) -> list[Finding]:
    """Return all problems of names, parameters and edges in ``raw``, the content of a study file."""
    arms = {name: arm for name, arm in _section(raw, "arms").items() if isinstance(arm, Mapping)}
    findings = list(_check_top_level(raw))
    for name in _section(raw, "arms"):
        findings += _check_name(name)
    for name, arm in arms.items():
        findings += _check_method(name, arm)
        findings += _check_edges(name, arm, _section(raw, "arms"))
    return findings + list(_find_cycles(arms))


def suggest_sections(key: str, model: type[BaseModel]) -> list[str]:
    """Return the places in sections of ``model`` that take ``key``, as ``section.key``."""
    sections = inner_sections(model)
    return [f"{name}.{key}" for name, section in sections.items() if name != "arms" and key in section.model_fields]


def inner_sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the fields of ``model`` that are sections, with their classes."""
    classes = {name: section_class(field.annotation) for name, field in model.model_fields.items()}
    return {name: section for name, section in classes.items() if section}


def section_class(annotation: Any) -> type[BaseModel] | None:
    """Return the section's class in an annotation such as ``Search | None`` or ``dict[str, Range]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_class, get_args(annotation))), None)


def _section(raw: Section, *keys: str) -> Section:
    """Return the mapping under ``keys``; empty if there is none."""
    for key in keys:
        inner = raw.get(key)
        raw = inner if isinstance(inner, Mapping) else {}
    return raw


# ---------------------------------------------------------------- registered names
def _check_top_level(raw: Section) -> Iterator[Finding]:
    yield from _check_named("datasets", raw, "data", Data)
    yield from _check_named("models", raw, "model", Model)
    for section in ("evaluation", "checks"):
        if _section(raw, section).get("autoattack") is not None and find_spec("pyautoattack") is None:
            remedy = 'install it with pip install "tune-interpreg[autoattack]", or drop autoattack'
            yield (section, "autoattack"), f"needs the package pyautoattack; {remedy}"


def _check_named(group: str, raw: Section, key: str, section: type[Data | Model]) -> Iterator[Finding]:
    """Check a section that selects a registered name, and its options."""
    content = raw.get(key)
    settings = content if isinstance(content, Mapping) else {}
    name = settings.get("name", section().name) if isinstance(content, Mapping) else content
    place: Place = (key, "name") if isinstance(content, Mapping) else (key,)
    unknown = list(_check_registered(group, name, place))
    yield from unknown
    if not isinstance(name, str) or unknown:
        return
    try:
        builder = registry.resolve(group, name)
    except registry.BrokenPlugin as error:
        yield place, str(error)
        return
    yield from _check_options(f"{group[:-1]} {name}", builder, settings, section, (key,))


def _check_registered(group: str, name: Any, place: Place) -> Iterator[Finding]:
    names = registry.names(group)
    if isinstance(name, str) and name not in names:
        yield place, f"unknown {group[:-1]} {format_value(name)}; {suggest(name, names)}"


def _check_options(
    subject: str, builder: Callable[..., Any], settings: Section, section: type[Frozen], place: Place
) -> Iterator[Finding]:
    extra, names = _extra_keys(settings, section, "options", place), list(options.list_options(builder))
    for key, (where, _) in extra.items():
        if key not in names:
            yield where, _unknown_key(key, subject, "option", names, tuple(section.model_fields))
    values = {key: value for key, (_, value) in extra.items()}
    for key, problem in options.find_problems(builder, values):
        yield extra[key][0], problem
    for key in options.missing_options(builder, values):
        yield place, f"{subject} needs {key}: give a value"


def _extra_keys(settings: Section, section: type[BaseModel], into: str, place: Place) -> dict[str, tuple[Place, Any]]:
    """Return the keys of a section that are not fields of its class, each with its place and value.

    A resolved study has them in a mapping under ``into``.
    """
    if into in settings:
        return {key: ((*place, into, key), value) for key, value in _section(settings, into).items()}
    return {key: ((*place, key), value) for key, value in settings.items() if key not in section.model_fields}


def _unknown_key(key: str, subject: str, kind: str, names: Collection[str], places: Collection[str]) -> str:
    takes = f"{subject} takes {', '.join(names)}" if names else f"{subject} takes no {kind}s"
    homes = [place for place in places if place.endswith(f".{key}")]
    close = homes or difflib.get_close_matches(key.lower(), [*names, *places], n=1)
    return f"unknown {kind}; {takes}" + (f" (did you mean {close[0]}?)" if close else "")


def _check_name(name: str) -> Iterator[Finding]:
    if not _ARM_NAME.fullmatch(name):
        rule = "an arm's name takes letters, digits, _ and - (it is part of file names), at most 64 of them"
        yield ("arms", name), f"{rule}, got {format_value(name)}"


# --------------------------------------------------------------------- parameters
def _check_method(name: str, arm: Section) -> Iterator[Finding]:
    method_name, place = arm.get("method"), ("arms", name, "method")
    if not isinstance(method_name, str):
        return
    unknown = [
        finding for part in method_name.split("+") for finding in _check_registered("methods", part.strip(), place)
    ]
    yield from unknown
    if unknown:
        return
    try:
        method = registry.load_method(method_name)
    except (ValueError, registry.BrokenPlugin) as error:
        yield place, str(error)
        return
    yield from _check_targets(name, arm, method)
    yield from _check_values(name, arm, method.parameters)
    yield from _check_ranges(name, arm, method.parameters)
    yield from _check_missing(name, arm, method.parameters)


def _check_targets(name: str, arm: Section, method: Any) -> Iterator[Finding]:
    targets, place = arm.get("targets"), ("arms", name, "targets")
    if method.needs_targets and targets is None:
        yield ("arms", name), f"method {arm['method']} needs targets: {{teacher: ARM}}; add them"
    if targets is not None and not method.needs_targets:
        yield place, f"method {arm['method']} takes no targets; drop them, or use another method"
    elif method.signed_targets and isinstance(targets, Mapping) and targets.get("sign") != "signed":
        yield (*place, "sign"), f"method {arm['method']} compares signed gradients; give targets.sign: signed"


def _arm_params(name: str, arm: Section) -> dict[str, tuple[Place, Any]]:
    """Return the parameters that the arm sets, each with its place and value."""
    return _extra_keys(arm, Arm, "params", ("arms", name))


def _arm_ranges(name: str, arm: Section) -> dict[str, tuple[Place, Any]]:
    """Return the parameters that the arm searches, each with its place and range; a grid's values are a choice."""
    above: Place = ("arms", name, "search")
    ranges = {key: ((*above, "space", key), span) for key, span in _section(arm, "search", "space").items()}
    grid = _section(arm, "search", "grid")
    return ranges | {key: ((*above, "grid", key), {"choice": values}) for key, values in grid.items()}


def _check_values(name: str, arm: Section, parameters: Mapping[str, Parameter]) -> Iterator[Finding]:
    ranges = _arm_ranges(name, arm)
    for key, (place, value) in _arm_params(name, arm).items():
        if key not in parameters:
            places = (*Arm.model_fields, *suggest_sections(key, Arm))
            yield place, _unknown_key(key, f"method {arm['method']}", "parameter", parameters, places)
        elif problem := parameters[key].find_problem(value):
            yield place, problem
        elif key in ranges:
            yield place, f"is searched too; drop it here, or drop {'.'.join(map(str, ranges[key][0][2:]))}"


def _check_ranges(name: str, arm: Section, parameters: Mapping[str, Parameter]) -> Iterator[Finding]:
    for key, (place, span) in _arm_ranges(name, arm).items():
        if key not in parameters:
            yield place, _unknown_key(key, f"method {arm['method']}", "parameter", parameters, ())
        else:
            yield from ((place, problem) for problem in _range_problems(parameters[key], span))


def _range_problems(parameter: Parameter, span: Any) -> Iterator[str]:
    try:
        searched = Range.model_validate(span)
    except ValidationError:
        return  # reported with the section
    if parameter.choices and searched.choice is None:
        choices = ", ".join(parameter.choices)
        yield f"takes one of {choices}; search it by choice: [{choices}]"
    elif parameter.integer and searched.choice is None:
        yield "takes whole numbers; search it by choice: [1, 2, 4]"
    else:
        yield from filter(None, map(parameter.find_problem, searched.extremes()))


def _check_missing(name: str, arm: Section, parameters: Mapping[str, Parameter]) -> Iterator[Finding]:
    ranges = _arm_ranges(name, arm)
    if arm.get("search") is not None and not ranges:
        return  # the search lacks its space: reported with the section
    written = [*_arm_params(name, arm), *ranges]
    misspelled = [key for key in written if key not in parameters]
    for key, parameter in parameters.items():
        if parameter.default is None and key not in written and not difflib.get_close_matches(key, misspelled):
            remedy = f"give a value, or search it ({parameter.help})"
            yield ("arms", name), f"method {arm['method']} needs {key}: {remedy}"


# -------------------------------------------------------------------------- edges
def _edges(name: str, arm: Section) -> Iterator[tuple[Place, str]]:
    """Yield the places of an arm that name an arm to finish first, each with that name."""
    for section, key in (("targets", "teacher"), ("search", "match_loss_of"), ("search", "anchor")):
        other = _section(arm, section).get(key)
        if isinstance(other, str):
            yield ("arms", name, section, key), other


def _check_edges(name: str, arm: Section, arms: Collection[str]) -> Iterator[Finding]:
    for place, other in _edges(name, arm):
        if other not in arms:
            yield place, f"unknown arm {format_value(other)}; {suggest(other, arms)}"


def _find_cycles(arms: Mapping[str, Section]) -> Iterator[Finding]:
    """Yield one problem per cycle of edges, at the edge that closes it."""
    visited: set[str] = set()
    for start in arms:
        yield from _find_cycles_from(start, arms, (), visited)


def _find_cycles_from(
    name: str, arms: Mapping[str, Section], path: tuple[str, ...], visited: set[str]
) -> Iterator[Finding]:
    visited.add(name)
    path = (*path, name)
    for place, other in _edges(name, arms.get(name, {})):
        if other in path:
            cycle = path[path.index(other) :]
            yield place, f"waits for itself: {' → '.join([*cycle, other])}; drop one of these edges"
        elif other not in visited:
            yield from _find_cycles_from(other, arms, path, visited)
