"""A study file → a checked ``Study``; every problem is reported at once, each with file and line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.fields import format_value
from tune_interpreg.study.file.rules import find_problems, section_class, suggest_sections
from tune_interpreg.study.file.yaml_lines import YamlFile
from tune_interpreg.study.problems import Finding, Place, Problem, StudyError, suggest

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
class StudyFile:
    """A checked study and where it came from.

    locate: names file and line, or --set, of what shows only later to be wrong with it: (place, message) → ``Problem``.
    """

    study: Study
    locate: Callable[[Place, str], Problem]


def list_shipped_studies() -> list[str]:
    """Names of the study files that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("search_spaces").iterdir() if entry.name.endswith(".yaml")
    )


def read_study_file(source: str, overrides: Iterable[str] = (), data_root: Path | None = None) -> StudyFile:
    """Read a shipped study by name or any study by path, apply ``a.b=value`` overrides, and check all of it.

    data_root: the folder of the data set's files, in place of the study's own.
    Raises ``StudyError`` with every problem found.
    """
    path = _find(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise StudyError([Problem(str(path), "", "is not text in UTF-8; give a YAML file")]) from None
    except OSError as error:
        raise StudyError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    return _parsed(text, path.name if source in list_shipped_studies() else str(path), path.stem, overrides, data_root)


def load_study(source: str, overrides: Iterable[str] = ()) -> Study:
    """As ``read``, the study alone."""
    return read_study_file(source, overrides).study


def parse_study(text: str, *, where: str, name: str = "study", overrides: Iterable[str] = ()) -> Study:
    """As ``load``, for a study's text; ``where`` is the file that errors name."""
    return _parsed(text, where, name, overrides).study


def _parsed(text: str, where: str, name: str, overrides: Iterable[str], data_root: Path | None = None) -> StudyFile:
    file = YamlFile(where, text)
    changed, problems = _override(file.raw, overrides)
    if data_root is not None:
        changed["data", "root"] = f"--data-root {data_root}"
        _set(file.raw, ("data", "root"), str(data_root.absolute()), changed["data", "root"])
    study, found = _check({"name": name} | file.raw)
    located = [file.locate(place, message, changed) for place, message in file.twice + found]
    problems += [problem for _, problem in sorted(located, key=lambda one: one[0])]
    if problems:
        raise StudyError(list(dict.fromkeys(problems)))
    assert study is not None, "a study that cannot be built has problems"
    return StudyFile(study, lambda place, message: file.locate(place, message, changed)[1])


def _find(source: str) -> Path:
    if source in list_shipped_studies():
        return Path(str(files("search_spaces") / f"{source}.yaml"))
    if os.path.isfile(source):
        return Path(source)
    wrong = "is a folder" if os.path.isdir(source) else "no such file"
    remedy = f"give a YAML file, or the name of a shipped study ({', '.join(list_shipped_studies())})"
    near = difflib.get_close_matches(source, list_shipped_studies(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise StudyError([Problem(source or "STUDY", "", f"{wrong}: {remedy}{hint}")])


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
            _set(raw, place, YamlFile(where, f"value: {text}", one_line=True).raw["value"], where)
            changed[place] = where
        except StudyError as error:
            problems += error.problems
    return changed, problems


def _set(raw: dict[str, Any], place: tuple[str, ...], value: Any, where: str) -> None:
    section = raw
    for depth, key in enumerate(place[:-1], start=1):
        below = section.get(key)
        if place[:depth] in (("data",), ("model",)) and isinstance(below, str):
            below = {"name": below}
        if below is not None and not isinstance(below, dict):
            above = ".".join(place[:depth])
            message = f"takes no key {key}.{place[depth]}: it is {format_value(below)}; set it whole: {above}=VALUE"
            raise StudyError([Problem(where, above, message)])
        section[key] = dict(below or {})
        section = section[key]
    section[place[-1]] = value


# ------------------------------------------------------------------------ checking
def _check(raw: dict[str, Any]) -> tuple[Study | None, list[Finding]]:
    """The study where ``raw`` is one, and all of its problems; arms are checked one by one."""
    found = _arms_problems(raw.get("arms"))
    study = None
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        found += [(place, message) for place, message in _problems(error, Study, ()) if place[:1] != ("arms",)]
    return study, found + find_problems(raw)


def _arms_problems(raw: Any) -> list[Finding]:
    if not isinstance(raw, dict) or not raw:
        got = "" if raw is None else f", got {format_value(raw)}"
        return [(("arms",), f"a study needs at least one arm: a mapping from its name to {{method: …}}{got}")]
    found: list[Finding] = []
    for name, given in raw.items():
        try:
            Arm.model_validate(given)
        except ValidationError as error:
            found += _problems(error, Arm, ("arms", name))
    return found


def _problems(error: ValidationError, model: type[BaseModel], above: Place) -> list[Finding]:
    """All of pydantic's, but those of gathered keys (``checks`` knows what they take), and no echoes."""
    return [((*above, *one["loc"]), _said(one, model)) for one in error.errors() if not _is_told_elsewhere(one)]


def _is_told_elsewhere(one: Any) -> bool:
    gathered = {"params", "options"}.intersection(one["loc"][:-1])
    return bool(gathered) or (one["type"] == "too_short" and bool(one["input"]))


def _said(one: Any, model: type[BaseModel]) -> str:
    kind, value, loc = one["type"], one["input"], one["loc"]
    if kind == "value_error":
        return str(one["msg"]).removeprefix("Value error, ")
    section = _section_at(model, loc[:-1])
    if kind == "extra_forbidden":
        near = suggest_sections(loc[-1], section)
        return f"unknown key; {f'did you mean {near[0]}?' if near else suggest(loc[-1], section.model_fields)}"
    if kind == "missing":
        return f"is required: {section.model_fields[loc[-1]].description}"
    if kind == "model_type":
        fields = _section_at(model, loc).model_fields
        first = next((name for name, field in fields.items() if field.is_required()), next(iter(fields)))
        rule = f"takes a mapping such as {{{first}: …}}"
    else:
        rule = _RULES.get(kind, one["msg"]).format(**one.get("ctx", {}))
    return f"{rule}, got {format_value(value)}" + ("; give it a value, or drop it" if value is None else "")


def _section_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    """The class of the section at ``place``."""
    for key in place:
        field = model.model_fields.get(str(key))
        model = (section_class(field.annotation) if field else None) or model
    return model
