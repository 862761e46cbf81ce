"""A study file → a checked ``Study``. All problems are reported at once, each with file and line."""

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

#: Pydantic's name of a broken rule → the rule in a user's words.
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
    """A checked study and its source.

    locate: (place, message) → a ``Problem`` with file and line, or ``--set``, for problems found later.
    """

    study: Study
    locate: Callable[[Place, str], Problem]


def list_shipped_studies() -> list[str]:
    """Return the names of the study files that come with the package, sorted."""
    names = [entry.name for entry in files("search_spaces").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_study_file(source: str, overrides: Iterable[str] = (), data_root: Path | None = None) -> StudyFile:
    """Read and check a study.

    Args:
        source: name of a shipped study, or path of a YAML file.
        overrides: ``a.b=value``, with the value in YAML; each replaces a value of the file.
        data_root: folder of the data set's files; replaces ``data.root``.

    Raises:
        StudyError: lists every problem.
    """
    path = _find_file(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise StudyError([Problem(str(path), "", "is not text in UTF-8; give a YAML file")]) from None
    except OSError as error:
        raise StudyError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    where = path.name if source in list_shipped_studies() else str(path)
    return _parse(text, where, path.stem, overrides, data_root)


def load_study(source: str, overrides: Iterable[str] = ()) -> Study:
    """Return the study that ``read_study_file`` reads."""
    return read_study_file(source, overrides).study


def parse_study(text: str, *, where: str, name: str = "study", overrides: Iterable[str] = ()) -> Study:
    """Return the study in ``text``, checked like a file; problems name the file ``where``."""
    return _parse(text, where, name, overrides).study


def _parse(text: str, where: str, name: str, overrides: Iterable[str], data_root: Path | None = None) -> StudyFile:
    file = YamlFile(where, text)
    changed, problems = _override(file.raw, overrides)
    if data_root is not None:
        changed["data", "root"] = f"--data-root {data_root}"
        _set_value(file.raw, ("data", "root"), str(data_root.absolute()), changed["data", "root"])
    study, findings = _check({"name": name} | file.raw)
    located = [file.locate(place, message, changed) for place, message in file.duplicates + findings]
    problems += [problem for _, problem in sorted(located, key=lambda pair: pair[0])]
    if problems:
        raise StudyError(list(dict.fromkeys(problems)))
    assert study is not None, "a study that cannot be built has problems"
    return StudyFile(study, lambda place, message: file.locate(place, message, changed)[1])


def _find_file(source: str) -> Path:
    shipped = list_shipped_studies()
    if source in shipped:
        return Path(str(files("search_spaces") / f"{source}.yaml"))
    if os.path.isfile(source):
        return Path(source)
    reason = "is a folder" if os.path.isdir(source) else "no such file"
    close = difflib.get_close_matches(source, shipped, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    remedy = f"give a YAML file, or the name of a shipped study ({', '.join(shipped)}){hint}"
    raise StudyError([Problem(source or "STUDY", "", f"{reason}: {remedy}")])


# ---------------------------------------------------------------------- overrides
def _override(raw: dict[str, Any], overrides: Iterable[str]) -> tuple[dict[Place, str], list[Problem]]:
    """Set each ``a.b=value`` in ``raw``. Return place → override that changed it, and the problems."""
    changed: dict[Place, str] = {}
    problems: list[Problem] = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        where, place = f"--set {override}", tuple(dotted.strip().split("."))
        if not (equals and all(place)):
            problems.append(Problem(where, "", "takes KEY=VALUE, with dots between keys: training.epochs=2"))
            continue
        try:
            _set_value(raw, place, YamlFile(where, f"value: {text}", one_line=True).raw["value"], where)
            changed[place] = where
        except StudyError as error:
            problems += error.problems
    return changed, problems


def _set_value(raw: dict[str, Any], place: tuple[str, ...], value: Any, where: str) -> None:
    """Set the value at ``place``. Sections on the way are copied, because an alias may share them."""
    section = raw
    for depth, key in enumerate(place[:-1], start=1):
        inner = section.get(key)
        if place[:depth] in (("data",), ("model",)) and isinstance(inner, str):
            inner = {"name": inner}
        if inner is not None and not isinstance(inner, dict):
            above = ".".join(place[:depth])
            message = f"takes no key {key}.{place[depth]}: it is {format_value(inner)}; replace it: {above}=VALUE"
            raise StudyError([Problem(where, above, message)])
        section[key] = dict(inner or {})
        section = section[key]
    section[place[-1]] = value


# ------------------------------------------------------------------------ checking
def _check(raw: dict[str, Any]) -> tuple[Study | None, list[Finding]]:
    """Return the study if ``raw`` is one, and all problems. Arms are checked one by one, so that none hides another."""
    findings = _check_arms(raw.get("arms"))
    study = None
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        findings += [finding for finding in _translate(error, Study, ()) if finding[0][:1] != ("arms",)]
    return study, findings + find_problems(raw)


def _check_arms(raw: Any) -> list[Finding]:
    if not isinstance(raw, dict) or not raw:
        got = "" if raw is None else f", got {format_value(raw)}"
        return [(("arms",), f"a study needs at least one arm: a mapping from its name to {{method: …}}{got}")]
    findings: list[Finding] = []
    for name, arm in raw.items():
        try:
            Arm.model_validate(arm)
        except ValidationError as error:
            findings += _translate(error, Arm, ("arms", name))
    return findings


def _translate(error: ValidationError, model: type[BaseModel], above: Place) -> list[Finding]:
    """Return pydantic's errors in a user's words, except those that other rules report."""
    problems = [problem for problem in error.errors() if not _is_reported_elsewhere(problem)]
    return [((*above, *problem["loc"]), _message(problem, model)) for problem in problems]


def _is_reported_elsewhere(error: Any) -> bool:
    """Return whether ``rules`` reports the error (keys of methods, data sets, models), or it repeats another error."""
    is_extra_key = not {"params", "options"}.isdisjoint(error["loc"][:-1])
    return is_extra_key or (error["type"] == "too_short" and bool(error["input"]))


def _message(error: Any, model: type[BaseModel]) -> str:
    kind, value, place = error["type"], error["input"], error["loc"]
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    section = _section_at(model, place[:-1])
    if kind == "extra_forbidden":
        homes = suggest_sections(place[-1], section)
        return f"unknown key; {f'did you mean {homes[0]}?' if homes else suggest(place[-1], section.model_fields)}"
    if kind == "missing":
        return f"is required. {section.model_fields[place[-1]].description}"
    if kind == "model_type":
        fields = _section_at(model, place).model_fields
        example = next((name for name, field in fields.items() if field.is_required()), next(iter(fields)))
        rule = f"takes a mapping such as {{{example}: …}}"
    else:
        rule = _RULES.get(kind, error["msg"]).format(**error.get("ctx", {}))
    remedy = "; give it a value, or drop it" if value is None else ""
    return f"{rule}, got {format_value(value)}{remedy}"


def _section_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    """Return the class of the section at ``place``."""
    for key in place:
        field = model.model_fields.get(str(key))
        model = (section_class(field.annotation) if field else None) or model
    return model
