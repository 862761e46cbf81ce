"""`tune-interpreg spaces`."""

from __future__ import annotations

import re
from importlib.resources import files

import typer

from tune_interpreg.study.config import Study
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.file.yaml_lines import File


def spaces() -> None:
    """List the studies that come along, a line each.

    Example:  tune-interpreg spaces
    """
    for name in study_file.shipped():
        typer.echo(f"{name:15}{_line(name)}")


def _line(name: str) -> str:
    text = (files("search_spaces") / f"{name}.yaml").read_text(encoding="utf-8")
    study = Study.model_validate(File(name, text).raw)
    trials = sum(arm.search.trials for arm in study.arms.values() if arm.search)
    counts = f"{len(study.arms)} arms, {trials} search trials, {len(study.seeds)} seeds"
    return f"{study.data.name}, {study.model.name}, {counts}: {_first_sentence(text)}"


def _first_sentence(text: str) -> str:
    """Of the comment that a study file begins with."""
    comment = " ".join(line.lstrip("# ") for line in re.split(r"^(?!#)", text, maxsplit=1, flags=re.M)[0].splitlines())
    return re.split(r"(?<=\.)\s", comment)[0]
