"""`tune-interpreg guide`."""

from typing import Annotated

import typer

from tune_interpreg import guides
from tune_interpreg.commands.shared import console

#: The guide that is generated from the code.
OPTIONS = "options"

#: The guide that is a Jupyter notebook.
NOTEBOOK = "notebook"
NAMES = (*guides.NAMES, NOTEBOOK, OPTIONS)


def _check(name: str | None) -> str | None:
    if name is not None and name not in NAMES:
        raise typer.BadParameter(f"takes one of {', '.join(NAMES)}, got {name!r}")
    return name


def guide(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[GUIDE]", callback=_check, help="Name of a guide. Default: list them."),
    ] = None,
) -> None:
    """Print a guide. Every guide but `options` is a short tutorial that runs as it is written, in an empty folder.

    A block below the name of a file is the content of this file.

    `options` describes every key of a study file and every parameter of the methods. `notebook` is a Jupyter notebook:
    write it to a file with `tune-interpreg guide notebook > notebook.ipynb`, and open that with Jupyter.

    Example:  tune-interpreg guide first-study
    """
    screen = console()
    if name is None:
        for guide_name in guides.NAMES:
            screen.print(f"{guide_name:12} {guides.title(guide_name)}")
        screen.print(f"{NOTEBOOK:12} A study in a notebook: write it to notebook.ipynb")
        screen.print(f"{OPTIONS:12} Every option of a study file")
        return
    text = _read(name)
    if name == NOTEBOOK and screen.is_terminal:
        screen.print("It is a Jupyter notebook; write it to a file: tune-interpreg guide notebook > notebook.ipynb")
    elif screen.is_terminal:
        from tune_interpreg.guides.terminal import print_guide

        print_guide(text, screen)
    else:
        typer.echo(text, nl=False)


def _read(name: str) -> str:
    if name == NOTEBOOK:
        return guides.notebook()
    if name != OPTIONS:
        return guides.text(name)
    from tune_interpreg.study.file.reference import options_table

    return options_table().rstrip("\n") + "\n"
