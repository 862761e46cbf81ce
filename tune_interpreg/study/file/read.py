"""A study file → a checked ``Study``. All problems are reported at once, each with file and line."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from tune_interpreg import registry
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import format_value
from tune_interpreg.study.file.messages import describe_error
from tune_interpreg.study.file.rules import find_problems
from tune_interpreg.study.file.yaml_lines import YamlFile
from tune_interpreg.study.file.yaml_text import UnreadableText, YamlText
from tune_interpreg.study.problems import Finding, Place, Problem, StudyError, name_place


@dataclass(frozen=True)
class StudyFile:
    """A checked study. locate: (place, message) → a ``Problem`` with file and line, for problems found later."""

    study: Study
    locate: Callable[[Place, str], Problem]


def list_shipped_studies() -> list[str]:
    """Return the names of the study files that come with the package, sorted."""
    names = [entry.name for entry in files("search_spaces").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_study_file(source: str, overrides: Iterable[str] = (), data_root: Path | None = None) -> StudyFile:
    """Read and check a study. Raise ``StudyError``, which lists every problem.

    Args:
        source: name of a shipped study, or path of a YAML file.
        overrides: ``a.b=value``, with the value in YAML; each replaces a value of the file.
        data_root: folder of the data set's files; replaces ``data.root``.
    """
    shipped = list_shipped_studies()
    path = Path(str(files("search_spaces"))) / f"{source}.yaml" if source in shipped else Path(source)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise StudyError([Problem(f"{source}:{line}", "", f"is not UTF-8 ({error}); save it as UTF-8")]) from None
    except FileNotFoundError:
        similar = difflib.get_close_matches(source, map(str, path.parent.glob("*.y*ml")))
        remedy = registry.suggest(source, [*shipped, *similar])
        raise StudyError([Problem(source, "", f"there is no such file or shipped study; {remedy}")]) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        remedy = f"give a YAML file, or the name of a shipped study; {registry.suggest(source, shipped)}"
        raise StudyError([Problem(source or "STUDY", "", f"cannot be read ({error}); {remedy}")]) from None
    file = YamlFile(path.name if source in shipped else source, text)
    problems = _override(file, overrides)
    if data_root is not None:
        file.override(("data", "root"), str(data_root.absolute()), f"--data-root {data_root}")
    raw = {"name": path.stem} | file.raw
    findings = file.duplicates + find_problems(raw)
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        findings += _translate(error)
    else:
        if not problems and not findings:
            return StudyFile(study, file.locate)
    findings = _drop_inherited(findings)
    findings.sort(key=lambda finding: file.origin(finding[0])[0])
    problems += [file.locate(place, message) for place, message in findings]
    raise StudyError(list(dict.fromkeys(problems)))


def check_study(study: Study) -> StudyFile:
    """Check a study that was built in Python by the rules of study files. Raise ``StudyError``, as for a file."""
    findings = _drop_inherited(find_problems(study.model_dump(mode="json")))
    if findings:
        raise StudyError([_locate(study, place, message) for place, message in dict.fromkeys(findings)])
    return StudyFile(study, partial(_locate, study))


def _locate(study: Study, place: Place, message: str) -> Problem:
    return Problem(study.name, name_place(place), message)


def _drop_inherited(findings: list[Finding]) -> list[Finding]:
    """Leave out the problems of arms' sections that they have from the study's sections."""
    shared = {finding for finding in findings if finding[0][:1] != ("arms",)}
    return [
        (place, message) for place, message in findings if place[:1] != ("arms",) or (place[2:], message) not in shared
    ]


def _override(file: YamlFile, overrides: Iterable[str]) -> list[Problem]:
    """Set each ``a.b=value``. Return the problems of those that cannot be set."""
    problems: list[Problem] = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        where, place = f"--set {override}", tuple(dotted.strip().split("."))
        if not (equals and all(place)):
            problems.append(Problem(where, "", "takes KEY=VALUE, with dots between keys: training.epochs=2"))
            continue
        try:
            content = YamlText(text)
            file.override(place, content.value, where)
        except UnreadableText as error:
            problems.append(Problem(where, "", str(error)))
        except StudyError as error:
            problems += error.problems
        else:
            problems += [file.locate((*place, *inner), message) for inner, message in content.duplicates]
            if content.rest.strip():
                message = f"the value ends before {format_value(content.rest.strip())}; put all of it in quotes"
                problems.append(file.locate(place, message))
    return problems


# ------------------------------------------------------------- errors of pydantic
def _translate(error: ValidationError) -> list[Finding]:
    """Return pydantic's errors in a user's words, except those that other rules report, or that repeat another."""
    findings: list[Finding] = []
    for problem in error.errors():
        kind, place = problem["type"], tuple(key for key in problem["loc"] if key != "[key]")
        inner = place[2:] if place[0] == "arms" else place
        repeats = kind == "default_factory_not_called" or (kind == "too_short" and bool(problem["input"]))
        # ``rules`` reports parameters and options
        if not repeats and inner[:1] != ("params",) and inner[1:2] != ("options",):
            findings.append((place, describe_error(problem)))
    return findings
