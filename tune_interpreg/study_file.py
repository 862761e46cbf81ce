"""A study file → a checked ``Study``; every problem is reported at once, each with file and line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tune_interpreg.checks import Found, Place, homes, instead, model_in, study_problems
from tune_interpreg.config import Arm, Study, shown

_MERGE = "tag:yaml.org,2002:merge"

#: What a value has to be, by pydantic's name of the rule it broke.
_RULES = {
    "int_type": "takes a whole number",
    "int_from_float": "takes a whole number",
    "float_type": "takes a number",
    "finite_number": "takes a finite number",
    "string_type": "takes text",
    "bool_type": "takes true or false",
    "tuple_type": "takes a list such as [0, 1]",
    "dict_type": "takes a mapping",
    "literal_error": "takes one of {expected}",
    "greater_than": "takes a number above {gt:g}",
    "greater_than_equal": "takes a number of at least {ge:g}",
    "less_than": "takes a number below {lt:g}",
    "less_than_equal": "takes a number of at most {le:g}",
    "too_short": "takes at least one value",
}


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
        entry.name.removesuffix(".yaml") for entry in files("search_spaces").iterdir() if entry.name.endswith(".yaml")
    )


def load(source: str, overrides: Iterable[str] = ()) -> Study:
    """Read a shipped study by name or any study by path, apply ``a.b=value`` overrides, and check all of it.

    Raises ``StudyError`` with every problem found.
    """
    path = _find(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise StudyError([Problem(str(path), "", "is not text in UTF-8; give a YAML file")]) from None
    except OSError as error:
        raise StudyError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    return parse(text, where=path.name if source in shipped() else str(path), name=path.stem, overrides=overrides)


def parse(text: str, *, where: str, name: str = "study", overrides: Iterable[str] = ()) -> Study:
    """As ``load``, for a study's text; ``where`` is the file that errors name."""
    file = _File(where, text)
    changed, problems = _override(file.raw, overrides)
    study, found = _check({"name": name} | file.raw)
    located = [file.locate(place, message, changed) for place, message in file.twice + found]
    problems += [problem for _, problem in sorted(located, key=lambda one: one[0])]
    if problems:
        raise StudyError(list(dict.fromkeys(problems)))
    assert study is not None, "a study that cannot be built has problems"
    return study


def _find(source: str) -> Path:
    if source in shipped():
        return Path(str(files("search_spaces") / f"{source}.yaml"))
    if os.path.isfile(source):
        return Path(source)
    wrong = "is a folder" if os.path.isdir(source) else "no such file"
    remedy = f"give a YAML file, or the name of a shipped study ({', '.join(shipped())})"
    near = difflib.get_close_matches(source, shipped(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise StudyError([Problem(source or "STUDY", "", f"{wrong}: {remedy}{hint}")])


# --------------------------------------------------------------------------- YAML
class _Loader(yaml.SafeLoader):
    """YAML's core: 1e-3 is a number, and a date is text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError):
            problem = f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class _File:
    """A study file's content: ``raw`` values under keys that are text, and the line of each place."""

    def __init__(self, where: str, text: str, *, one_line: bool = False):
        self.where, self.one_line = where, one_line
        self.lines: dict[Place, int] = {}
        self.twice: list[Found] = []
        self.raw: dict[str, Any] = self._read(text)

    def _read(self, text: str) -> dict[str, Any]:
        try:
            raw = self._values(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = ", ".join(filter(None, (error.context, error.problem)))
            hint = "; indent by spaces" if "'\\t'" in said else ""
            raise self._unreadable(f"{said}{hint}", mark.line + 1 if mark else None) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._unreadable(f"a character that no text has, {shown(chr(error.character))}", line) from None
        except RecursionError:
            raise self._unreadable("nested too deeply; does an alias (*name) hold itself?") from None
        if not isinstance(raw, dict):
            message = f"a study is a mapping with keys such as data, model, arms; got {shown(raw)}"
            raise StudyError([Problem(self.where, "", message)])
        return raw

    def _unreadable(self, message: str, line: int | None = None) -> StudyError:
        at = self.where if line is None or self.one_line else f"{self.where}:{line}"
        return StudyError([Problem(at, "", f"not valid YAML: {message}")])

    def _values(self, text: str) -> Any:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            self._note(node, ())
            return loader.construct_document(node) if node else None
        finally:
            loader.dispose()

    def _note(self, node: yaml.Node | None, place: Place) -> None:
        """Note the line of each key and list item, and the keys that stand twice; make all keys text."""
        if isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[(*place, index)] = value.start_mark.line + 1
                self._note(value, (*place, index))
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
                self._note_key(key, value, place, seen)

    def _note_key(self, key: yaml.Node, value: yaml.Node, place: Place, seen: set[str]) -> None:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key is plain text", problem_mark=key.start_mark)
        if key.tag == _MERGE:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                self._note(merged, place)
            return
        key.tag = "tag:yaml.org,2002:str"
        below = (*place, key.value)
        self.lines[below] = key.start_mark.line + 1
        if key.value in seen:
            self.twice.append((below, "stands twice; drop one"))
        seen.add(key.value)
        self._note(value, below)

    def locate(self, place: Place, message: str, changed: Mapping[Place, str]) -> tuple[int, Problem]:
        """The problem with its file and line, or its --set; and the line, to sort by."""
        dotted = ".".join(part if re.fullmatch(r"[\w-]+", part) else repr(part) for part in map(str, place))
        prefixes = [place[:depth] for depth in range(len(place), 0, -1)]
        if override := next((changed[above] for above in prefixes if above in changed), None):
            return 0, Problem(override, dotted, message)
        for above in prefixes:
            if line := self.lines.get(above):
                return line, Problem(f"{self.where}:{line}", dotted, message)
            if override := next((changed[key] for key in changed if key[: len(above)] == above), None):
                return 0, Problem(override, dotted, message)
        return 0, Problem(self.where, dotted, message)


# ---------------------------------------------------------------------- overrides
def _override(raw: dict[str, Any], overrides: Iterable[str]) -> tuple[dict[Place, str], list[Problem]]:
    """Set each ``a.b=value`` (value read as YAML) in ``raw``; which places came from which override, and problems."""
    changed: dict[Place, str] = {}
    problems: list[Problem] = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        where, place = f"--set {override}", tuple(dotted.strip().split("."))
        if not (equals and all(place)):
            problems.append(Problem(where, "", "takes KEY=VALUE, with dots between keys: training.epochs=2"))
            continue
        try:
            _set(raw, place, _File(where, f"value: {text}", one_line=True).raw["value"], where)
            changed[place] = where
        except StudyError as error:
            problems += error.problems
    return changed, problems


def _set(raw: dict[str, Any], place: tuple[str, ...], value: Any, where: str) -> None:
    section = raw
    for depth, key in enumerate(place[:-1], start=1):
        below = section.get(key)
        if place[:depth] == ("data",) and isinstance(below, str):
            below = {"name": below}
        if below is not None and not isinstance(below, dict):
            above = ".".join(place[:depth])
            message = f"takes no key {key}.{place[depth]}: it is {shown(below)}; set it whole: {above}=VALUE"
            raise StudyError([Problem(where, above, message)])
        section[key] = dict(below or {})
        section = section[key]
    section[place[-1]] = value


# ------------------------------------------------------------------------ checking
def _check(raw: dict[str, Any]) -> tuple[Study | None, list[Found]]:
    """The study where ``raw`` is one, and all of its problems; arms are checked one by one."""
    found = _arms_problems(raw.get("arms"))
    study = None
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        found += [(place, message) for place, message in _problems(error, Study, ()) if place[:1] != ("arms",)]
    return study, found + study_problems(raw)


def _arms_problems(raw: Any) -> list[Found]:
    if not isinstance(raw, dict) or not raw:
        got = "" if raw is None else f", got {shown(raw)}"
        return [(("arms",), f"a study needs at least one arm: a mapping from its name to {{method: …}}{got}")]
    found: list[Found] = []
    for name, given in raw.items():
        try:
            Arm.model_validate(given)
        except ValidationError as error:
            found += _problems(error, Arm, ("arms", name))
    return found


def _problems(error: ValidationError, model: type[BaseModel], above: Place) -> list[Found]:
    """All of pydantic's, but those of a method's parameters (``checks`` knows what they take), and no echoes."""
    return [((*above, *one["loc"]), _said(one, model)) for one in error.errors() if not _is_told_elsewhere(one)]


def _is_told_elsewhere(one: Any) -> bool:
    of_method = one["loc"][:1] == ("params",) and len(one["loc"]) > 1
    return of_method or (one["type"] == "too_short" and bool(one["input"]))


def _said(one: Any, model: type[BaseModel]) -> str:
    kind, value, loc = one["type"], one["input"], one["loc"]
    if kind == "value_error":
        return str(one["msg"]).removeprefix("Value error, ")
    section = _section_at(model, loc[:-1])
    if kind == "extra_forbidden":
        near = homes(loc[-1], section)
        return f"unknown key; {f'did you mean {near[0]}?' if near else instead(loc[-1], section.model_fields)}"
    if kind == "missing":
        return f"is required: {section.model_fields[loc[-1]].description}"
    if kind == "model_type":
        first = next(iter(_section_at(model, loc).model_fields))
        rule = f"takes a mapping such as {{{first}: …}}"
    else:
        rule = _RULES.get(kind, one["msg"]).format(**one.get("ctx", {}))
    return f"{rule}, got {shown(value)}" + ("; give it a value, or drop it" if value is None else "")


def _section_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    """The class of the section at ``place``."""
    for key in place:
        field = model.model_fields.get(str(key))
        model = (model_in(field.annotation) if field else None) or model
    return model
