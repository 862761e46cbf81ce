"""The rules of a study that no single section can see: names, parameters of methods, edges between arms."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tune_interpreg import registry
from tune_interpreg.config import Arm, Parameter

Found = tuple[tuple[str | int, ...], str]

_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def study_problems(raw: Mapping[str, Any], arms: Mapping[str, Arm], named: Collection[str]) -> list[Found]:
    """All that is wrong with names, parameters and edges.

    ``arms`` are those that could be read, ``named`` the names of all that the file gives.
    """
    found = list(_top_level(raw))
    for name, arm in arms.items():
        found += _name(name)
        found += _method(name, arm)
        found += _edges(name, arm, named)
    return found + list(_cycles(arms))


def _top_level(raw: Mapping[str, Any]) -> Iterator[Found]:
    data = raw.get("data")
    name = data.get("name") if isinstance(data, Mapping) else data
    yield from _registered("datasets", name, ("data",))
    yield from _registered("models", raw.get("model"), ("model",))


def _registered(group: str, name: Any, place: tuple[str, ...]) -> Iterator[Found]:
    known = registry.names(group)
    if isinstance(name, str) and name not in known:
        yield place, f"unknown {group[:-1]} {name!r}; {_instead(name, known)}"


def _instead(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"


def _name(name: str) -> Iterator[Found]:
    if not isinstance(name, str) or not _ARM_NAME.fullmatch(name):
        yield ("arms", name), "an arm's name takes letters, digits, _ and - (it names files), at most 64 of them"


def _method(name: str, arm: Arm) -> Iterator[Found]:
    unknown = list(_registered("methods", arm.method, ("arms", name, "method")))
    if unknown:
        yield from unknown
        return
    method = registry.resolve("methods", arm.method)
    if method.needs_targets and arm.targets is None:
        yield ("arms", name), f"method {arm.method} needs targets: {{teacher: ARM}}"
    if arm.targets is not None and not method.needs_targets:
        yield ("arms", name, "targets"), f"method {arm.method} takes no targets; drop them, or name another method"
    yield from _fixed(name, arm, method.parameters)
    yield from _searched(name, arm, method.parameters)
    space = arm.search.space if arm.search else {}
    for key, parameter in method.parameters.items():
        if parameter.default is None and key not in arm.params and key not in space:
            yield ("arms", name), f"method {arm.method} needs {key}: give a value, or search it ({parameter.help})"


def _fixed(name: str, arm: Arm, known: Mapping[str, Parameter]) -> Iterator[Found]:
    for key, value in arm.params.items():
        place = ("arms", name, key)
        if key not in known:
            yield place, _unknown_parameter(arm.method, key, known)
        elif problem := known[key].problem(value):
            yield place, problem
        elif arm.search and key in arm.search.space:
            yield place, f"is searched too; drop it here, or drop search.space.{key}"


def _searched(name: str, arm: Arm, known: Mapping[str, Parameter]) -> Iterator[Found]:
    for key, span in (arm.search.space if arm.search else {}).items():
        place = ("arms", name, "search", "space", key)
        if key not in known:
            yield place, _unknown_parameter(arm.method, key, known)
            continue
        yield from ((place, problem) for value in span.extremes() if (problem := known[key].problem(value)))


def _unknown_parameter(method: str, key: str, known: Mapping[str, Parameter]) -> str:
    takes = f"method {method} takes {', '.join(known)}" if known else f"method {method} takes no parameters"
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown parameter; {takes}" + (f" (did you mean {near[0]}?)" if near else "")


def _edges(name: str, arm: Arm, named: Collection[str]) -> Iterator[Found]:
    edges = [(("targets", "teacher"), arm.targets.teacher)] if arm.targets else []
    if arm.search and arm.search.match_loss_of:
        edges.append((("search", "match_loss_of"), arm.search.match_loss_of))
    for keys, other in edges:
        if other not in named:
            yield ("arms", name, *keys), f"unknown arm {other!r}; {_instead(other, named)}"


def _cycles(arms: Mapping[str, Arm]) -> Iterator[Found]:
    """One problem a cycle of ``teacher`` and ``match_loss_of`` edges, told at its first arm."""
    settled: set[str] = set()
    for start in arms:
        path: list[str] = []
        cycle = _walk(start, arms, path, settled)
        if cycle:
            yield ("arms", cycle[0]), f"waits for itself: {' → '.join([*cycle, cycle[0]])}; drop one of these edges"


def _walk(name: str, arms: Mapping[str, Arm], path: list[str], settled: set[str]) -> list[str]:
    if name in path:
        return path[path.index(name) :]
    if name in settled or name not in arms:
        return []
    path.append(name)
    cycle = next((found for other in arms[name].needs if (found := _walk(other, arms, path, settled))), [])
    path.pop()
    settled.add(name)
    return cycle
