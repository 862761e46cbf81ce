"""`tune-interpreg init`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg import registry
from tune_interpreg.commands.shared import complete_dataset, report_errors


def init(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help=f"A registered data set: {', '.join(registry.names('datasets'))}.",
            autocompletion=complete_dataset,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="File to write. Default: DATASET.yaml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a study file for DATASET to start from. It lists every key with its default and its meaning.

    Example:  tune-interpreg init digits --output my-study.yaml
    """
    from tune_interpreg.study.file.draft import draft_study
    from tune_interpreg.study.problems import Problem, StudyError

    with report_errors():
        text, path = draft_study(dataset), output or Path(f"{dataset}.yaml")
        try:
            with path.open("w" if force else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            message = "exists already; overwrite it with --force, or name another file with --output"
            raise StudyError([Problem(str(path), "", message)]) from None
        except OSError as error:
            message = f"cannot be written ({error.strerror}); name another file with --output"
            raise StudyError([Problem(str(path), "", message)]) from None
    name = shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
    root = " --data-root FOLDER" if dataset == "image_folder" else ""
    typer.echo(f"{name}  (check it: tune-interpreg validate {name}{root}; run it: tune-interpreg run {name}{root})")
