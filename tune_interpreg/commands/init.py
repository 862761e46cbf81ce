"""`tune-interpreg init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg import registry
from tune_interpreg.commands import completing
from tune_interpreg.commands.shared import report_errors


def init(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help=f"A registered data set: {', '.join(registry.names('datasets'))}.",
            autocompletion=completing.datasets,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Where to write it; default DATASET.yaml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a study file on DATASET to begin with: every key with its default, and what it means.

    Example:  tune-interpreg init digits --output my-study.yaml
    """
    from tune_interpreg.study.file.draft import draft
    from tune_interpreg.study.file.yaml_lines import Problem, StudyError

    with report_errors():
        text, path = draft(dataset), output or Path(f"{dataset}.yaml")
        try:
            with path.open("w" if force else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            problem = Problem(str(path), "", "is there already; --force overwrites it, --output names another file")
            raise StudyError([problem]) from None
        except OSError as error:
            raise StudyError(
                [Problem(str(path), "", f"cannot be written ({error.strerror}); name another file")]
            ) from None
    typer.echo(f"{path}  (check it: tune-interpreg validate {path}; run it: tune-interpreg run {path})")
