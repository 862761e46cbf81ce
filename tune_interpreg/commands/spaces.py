"""`tune-interpreg spaces`."""

import re
from importlib.resources import files

import typer

from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import list_shipped_studies
from tune_interpreg.study.file.yaml_lines import YamlFile


def spaces() -> None:
    """List the shipped studies, one per line. `run`, `plan`, `validate` and `launch` take them by name.

    Example:  tune-interpreg spaces
    """
    names = list_shipped_studies()
    width = max(map(len, names)) + 2
    for name in names:
        typer.echo(f"{name:{width}}{_describe(name)}")


def _describe(name: str) -> str:
    text = (files("search_spaces") / f"{name}.yaml").read_text(encoding="utf-8")
    study = Study.model_validate(YamlFile(name, text).raw)
    trials = sum(arm.search.trials for arm in study.arms.values() if arm.search)
    counts = f"{len(study.arms)} arms, {trials} search trials, {len(study.seeds)} seeds"
    return f"{study.data.name}, {study.model.name}, {counts}: {_first_sentence(text)}"


def _first_sentence(text: str) -> str:
    """Return the first sentence of the comment at the top of a study file."""
    comment = " ".join(line.lstrip("# ") for line in re.split(r"^(?!#)", text, maxsplit=1, flags=re.M)[0].splitlines())
    return re.split(r"(?<=\.)\s", comment)[0]
