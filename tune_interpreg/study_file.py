"""A study file → a checked ``Study``; every problem is reported at once, each with file and line."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tune_interpreg.checks import study_problems
from tune_interpreg.config import Arm, Frozen, Study

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a study: where, and what rule was broken by which value."""

    where: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.place}: {self.message}" if self.place else f"{self.where}: {self.message}"


class StudyError(ValueError):
    """A study that cannot run; ``problems`` lists all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def shipped() -> list[str]:
    """Names of the study files that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("search_spaces").iterdir() if ".yaml" in entry.name
    )


def load(source: str, overrides: Iterable[str] = ()) -> Study:
    """Read a shipped study by name or any study by path, apply ``a.b=value`` overrides, and check all of it.

    Raises ``StudyError`` with every problem found.
    """
    path = _find(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError([Problem(str(path), "", f"cannot be read: {error}")]) from None
    return parse(text, where=path.name if source in shipped() else str(path), name=path.stem, overrides=overrides)


def parse(text: str, *, where: str, name: str = "study", overrides: Iterable[str] = ()) -> Study:
    """As ``load``, for a study's text; ``where`` is the file that errors name."""
    lines: dict[Place, int] = {}
    raw = _read_yaml(text, where, lines)
    changed = _override(raw, overrides)
    raw.setdefault("name", name)
    found, study = _check(raw)
    if found or study is None:
        raise StudyError([_located(place, message, where, lines, changed) for place, message in found])
    return study


def _find(source: str) -> Path:
    if source in shipped():
        return Path(str(files("search_spaces") / f"{source}.yaml"))
    path = Path(source)
    if not path.is_file():
        near = difflib.get_close_matches(source, shipped(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        there = ", ".join(shipped())
        raise StudyError([Problem(source, "", f"no such study: give a file, or one of those shipped: {there}{hint}")])
    return path


def _read_yaml(text: str, where: str, lines: dict[Place, int]) -> dict[str, Any]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _note_lines(node, (), lines)
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{where}:{mark.line + 1}" if mark else where
        raise StudyError([Problem(at, "", f"not valid YAML: {error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise StudyError([Problem(where, "", f"not valid YAML: {error}")]) from None
    if not isinstance(raw, dict):
        raise StudyError([Problem(where, "", "a study is a mapping with keys such as data, model, arms")])
    return raw


def _note_lines(node: yaml.Node | None, place: Place, lines: dict[Place, int]) -> None:
    """Fill ``lines`` with the line of each key; a key that stands twice is an error of its own."""
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
            lines[(*place, key.value)] = key.start_mark.line + 1
            _note_lines(value, (*place, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = value.start_mark.line + 1
            _note_lines(value, (*place, index), lines)


def _override(raw: dict[str, Any], overrides: Iterable[str]) -> dict[Place, str]:
    """Set each ``a.b=value`` (value read as YAML) in ``raw``; returns which places came from which override."""
    changed: dict[Place, str] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        place = tuple(dotted.split("."))
        where = f"--set {override}"
        if not (equals and all(place)):
            raise StudyError([Problem(where, "", "takes KEY=VALUE, with dots between keys: training.epochs=2")])
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise StudyError([Problem(where, "", f"the value {text!r} is not valid YAML")]) from None
        section = raw
        for key in place[:-1]:
            below = section.get(key)
            section[key] = below if isinstance(below, dict) else ({"name": below} if key == "data" and below else {})
            section = section[key]
        section[place[-1]] = value
        changed[place] = where
    return changed


def _check(raw: dict[str, Any]) -> tuple[list[tuple[Place, str]], Study | None]:
    """All problems of ``raw``, and the study if there are none.

    Arms are checked one by one, so that a mistake in one hides none in another.
    """
    arms, found = _arms(raw.get("arms"))
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        study = None
        found += [problem for problem in _pydantic_problems(error, Study, ()) if problem[0][:1] != ("arms",)]
    given = raw.get("arms")
    return found + study_problems(raw, arms, set(given) if isinstance(given, dict) else set()), study


def _arms(raw: Any) -> tuple[dict[str, Arm], list[tuple[Place, str]]]:
    if not isinstance(raw, dict) or not raw:
        return {}, [(("arms",), "a study needs at least one arm: a mapping from its name to {method: …}")]
    arms: dict[str, Arm] = {}
    found: list[tuple[Place, str]] = []
    for name, given in raw.items():
        try:
            arms[name] = Arm.model_validate(given)
        except ValidationError as error:
            found += _pydantic_problems(error, Arm, ("arms", name))
    return arms, found


def _pydantic_problems(error: ValidationError, model: type[BaseModel], above: Place) -> list[tuple[Place, str]]:
    return [((*above, *(key for key in one["loc"] if key != "params")), _said(one, model)) for one in error.errors()]


def _said(one: Any, model: type[BaseModel]) -> str:
    kind, value = one["type"], one["input"]
    if kind == "extra_forbidden":
        known = _keys_at(model, one["loc"][:-1])
        near = difflib.get_close_matches(str(one["loc"][-1]), known, n=1)
        return f"unknown key; {f'did you mean {near[0]}?' if near else 'there are: ' + ', '.join(known)}"
    if kind == "missing":
        return "is required"
    message = one["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message if kind == "value_error" else f"{message}, got {value!r}"


def _keys_at(model: type[BaseModel], place: Place) -> list[str]:
    """The keys that the section at ``place`` takes."""
    for key in place:
        field = model.model_fields.get(str(key))
        inner = _model_in(field.annotation) if field else None
        model = inner or model
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)


def _located(place: Place, message: str, where: str, lines: dict[Place, int], changed: dict[Place, str]) -> Problem:
    dotted = ".".join(map(str, place))
    for depth in range(len(place), 0, -1):
        if place[:depth] in changed:
            return Problem(changed[place[:depth]], dotted, message)
        if place[:depth] in lines:
            return Problem(f"{where}:{lines[place[:depth]]}", dotted, message)
    return Problem(where, dotted, message)
