"""The rules of a study that no single section can see: names, parameters of methods, edges between arms.

They read the file's own mappings, so that a mistake elsewhere in an arm hides none of these.
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
    """All that is wrong with names, parameters and edges in ``raw``, a study file's content."""
    arms = {name: arm for name, arm in _section(raw, "arms").items() if isinstance(arm, Mapping)}
    found = list(_top_level(raw))
    for name in _section(raw, "arms"):
        found += _name(name)
    for name, arm in arms.items():
        found += _method(name, arm)
        found += _unknown_arms(name, arm, _section(raw, "arms"))
    return found + list(_cycles(arms))


def suggest_sections(key: str, model: type[BaseModel]) -> list[str]:
    """Where in a section of ``model`` a ``key`` belongs that was written beside that section: ``section.key``."""
    inner = {name: section_class(field.annotation) for name, field in model.model_fields.items() if name != "arms"}
    return [f"{name}.{key}" for name, section in inner.items() if section and key in section.model_fields]


def section_class(annotation: Any) -> type[BaseModel] | None:
    """The section's class that an annotation such as ``Search | None`` or ``dict[str, Range]`` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_class, get_args(annotation))), None)


def _section(raw: Section, *keys: str) -> Section:
    """The mapping under ``keys``; empty where there is none."""
    for key in keys:
        below = raw.get(key)
        raw = below if isinstance(below, Mapping) else {}
    return raw


def _top_level(raw: Section) -> Iterator[Finding]:
    yield from _named("datasets", raw, "data", Data)
    yield from _named("models", raw, "model", Model)
    for section in ("evaluation", "checks"):
        if _section(raw, section).get("autoattack") is not None and find_spec("pyautoattack") is None:
            remedy = 'install it with pip install "tune-interpreg[autoattack]", or drop autoattack'
            yield (section, "autoattack"), f"needs the package pyautoattack; {remedy}"


def _named(group: str, raw: Section, key: str, section: type[Data | Model]) -> Iterator[Finding]:
    """A section that names something registered, and the options it gives to that."""
    given = raw.get(key)
    place: Place = (key, "name") if isinstance(given, Mapping) else (key,)
    name = given.get("name", section().name) if isinstance(given, Mapping) else given
    unknown = list(_registered(group, name, place))
    yield from unknown
    if not isinstance(name, str) or unknown:
        return
    try:
        builder = registry.resolve(group, name)
    except registry.BrokenPlugin as error:
        yield place, str(error)
        return
    options_of = given if isinstance(given, Mapping) else {}
    yield from _options(f"{group[:-1]} {name}", builder, options_of, section, (key,))


def _registered(group: str, name: Any, place: Place) -> Iterator[Finding]:
    known = registry.names(group)
    if isinstance(name, str) and name not in known:
        yield place, f"unknown {group[:-1]} {format_value(name)}; {suggest(name, known)}"


def _options(
    what: str, builder: Callable[..., Any], given: Section, section: type[Frozen], place: Place
) -> Iterator[Finding]:
    own, known = _own(given, section, "options", place), options.names(builder)
    for key, (where, _) in own.items():
        if key not in known:
            yield where, _unknown_key(key, what, "option", known, tuple(section.model_fields))
    values = {key: value for key, (_, value) in own.items()}
    yield from ((own[key][0], problem) for key, problem in options.problems(builder, values))
    yield from ((place, f"{what} needs {key}: give a value") for key in options.missing(builder, values))


def _own(given: Section, section: type[BaseModel], gathered: str, place: Place) -> dict[str, tuple[Place, Any]]:
    """The keys of a section that are none of its class's fields, each with its place and value."""
    if gathered in given:
        return {key: ((*place, gathered, key), value) for key, value in _section(given, gathered).items()}
    return {key: ((*place, key), value) for key, value in given.items() if key not in section.model_fields}


def _unknown_key(key: str, what: str, kind: str, known: Collection[str], also: Collection[str]) -> str:
    takes = f"{what} takes {', '.join(known)}" if known else f"{what} takes no {kind}s"
    ends = [name for name in also if name.endswith(f".{key}")]
    near = ends or difflib.get_close_matches(key.lower(), [*known, *also], n=1)
    return f"unknown {kind}; {takes}" + (f" (did you mean {near[0]}?)" if near else "")


def _name(name: str) -> Iterator[Finding]:
    if not _ARM_NAME.fullmatch(name):
        rule = "an arm's name takes letters, digits, _ and - (it names files), at most 64 of them"
        yield ("arms", name), f"{rule}, got {format_value(name)}"


# --------------------------------------------------------------------- parameters
def _method(name: str, arm: Section) -> Iterator[Finding]:
    named, place = arm.get("method"), ("arms", name, "method")
    if not isinstance(named, str):
        return
    unknown = [one for part in named.split("+") for one in _registered("methods", part.strip(), place)]
    yield from unknown
    if unknown:
        return
    try:
        method = registry.load_method(named)
    except (ValueError, registry.BrokenPlugin) as error:
        yield place, str(error)
        return
    yield from _targets(name, arm, method)
    yield from _fixed(name, arm, method.parameters)
    yield from _searched(name, arm, method.parameters)
    yield from _missing(name, arm, method.parameters)


def _targets(name: str, arm: Section, method: Any) -> Iterator[Finding]:
    targets, place = arm.get("targets"), ("arms", name, "targets")
    if method.needs_targets and targets is None:
        yield ("arms", name), f"method {arm['method']} needs targets: {{teacher: ARM}}; add them"
    if targets is not None and not method.needs_targets:
        yield place, f"method {arm['method']} takes no targets; drop them, or name another method"
    elif method.signed_targets and isinstance(targets, Mapping) and targets.get("sign") != "signed":
        yield (*place, "sign"), f"method {arm['method']} compares signed gradients; give targets.sign: signed"


def _given(name: str, arm: Section) -> dict[str, tuple[Place, Any]]:
    """The arm's own parameters, each with its place."""
    return _own(arm, Arm, "params", ("arms", name))


def _fixed(name: str, arm: Section, known: Mapping[str, Parameter]) -> Iterator[Finding]:
    for key, (place, value) in _given(name, arm).items():
        if key not in known:
            also = (*Arm.model_fields, *suggest_sections(key, Arm))
            yield place, _unknown_key(key, f"method {arm['method']}", "parameter", known, also)
        elif problem := known[key].find_problem(value):
            yield place, problem
        elif key in (ranges := _ranges(name, arm)):
            yield place, f"is searched too; drop it here, or drop {'.'.join(map(str, ranges[key][0][2:]))}"


def _ranges(name: str, arm: Section) -> dict[str, tuple[Place, Any]]:
    """What the arm searches, a range for each parameter with its place; a grid's values are a choice."""
    above: Place = ("arms", name, "search")
    space, grid = (_section(arm, "search", kind) for kind in ("space", "grid"))
    gridded = {key: ((*above, "grid", key), {"choice": values}) for key, values in grid.items()}
    return {key: ((*above, "space", key), span) for key, span in space.items()} | gridded


def _searched(name: str, arm: Section, known: Mapping[str, Parameter]) -> Iterator[Finding]:
    for key, (place, span) in _ranges(name, arm).items():
        if key not in known:
            yield place, _unknown_key(key, f"method {arm['method']}", "parameter", known, ())
        else:
            yield from ((place, problem) for problem in _span_problems(known[key], span))


def _span_problems(parameter: Parameter, span: Any) -> Iterator[str]:
    try:
        searched = Range.model_validate(span)
    except ValidationError:
        return
    if parameter.choices and searched.choice is None:
        yield f"takes one of {', '.join(parameter.choices)}; search it by choice: [{', '.join(parameter.choices)}]"
    elif parameter.integer and searched.choice is None:
        yield "takes whole numbers; search it by choice: [1, 2, 4]"
    else:
        yield from filter(None, map(parameter.find_problem, searched.extremes()))


def _missing(name: str, arm: Section, known: Mapping[str, Parameter]) -> Iterator[Finding]:
    searched = _ranges(name, arm)
    if arm.get("search") is not None and not searched:
        return
    written = [*_given(name, arm), *searched]
    misspelt = [key for key in written if key not in known]
    for key, parameter in known.items():
        if parameter.default is None and key not in written and not difflib.get_close_matches(key, misspelt):
            message = f"needs {key}: give a value, or search it ({parameter.help})"
            yield ("arms", name), f"method {arm['method']} {message}"


# -------------------------------------------------------------------------- edges
def _edges(name: str, arm: Section) -> Iterator[tuple[Place, str]]:
    """Where the arm names an arm that must come first, and which."""
    for keys in (("targets", "teacher"), ("search", "match_loss_of"), ("search", "anchor")):
        other = _section(arm, keys[0]).get(keys[1])
        if isinstance(other, str):
            yield ("arms", name, *keys), other


def _unknown_arms(name: str, arm: Section, named: Collection[str]) -> Iterator[Finding]:
    for place, other in _edges(name, arm):
        if other not in named:
            yield place, f"unknown arm {format_value(other)}; {suggest(other, named)}"


def _cycles(arms: Mapping[str, Section]) -> Iterator[Finding]:
    """One problem a cycle of edges between arms, told at the edge that closes it."""
    settled: set[str] = set()
    for start in arms:
        yield from _loops(start, arms, (), settled)


def _loops(name: str, arms: Mapping[str, Section], path: tuple[str, ...], settled: set[str]) -> Iterator[Finding]:
    settled.add(name)
    path = (*path, name)
    for place, other in _edges(name, arms.get(name, {})):
        if other in path:
            cycle = path[path.index(other) :]
            yield place, f"waits for itself: {' → '.join([*cycle, other])}; drop one of these edges"
        elif other not in settled:
            yield from _loops(other, arms, path, settled)
