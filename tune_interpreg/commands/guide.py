"""`tune-interpreg guide`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markdown import Markdown

from tune_interpreg import guides
from tune_interpreg.commands.shared import console


def _known(name: str | None) -> str | None:
    if name is not None and name not in guides.NAMES:
        raise typer.BadParameter(f"takes one of {', '.join(guides.NAMES)}, got {name!r}")
    return name


def guide(
    name: Annotated[
        str | None, typer.Argument(metavar="[GUIDE]", callback=_known, help="Which one; without it all are listed.")
    ] = None,
) -> None:
    """Print a short guide that runs as it is written, or list them.

    Example:  tune-interpreg guide first-study
    """
    out = console()
    if name is None:
        for one in guides.NAMES:
            out.print(f"{one:12} {guides.title(one)}", highlight=False)
    elif out.is_terminal:
        out.print(Markdown(guides.text(name)))
    else:
        typer.echo(guides.text(name), nl=False)
