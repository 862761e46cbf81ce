"""`tune-interpreg compare`."""

from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg.commands.shared import complete_store, console, report_errors

StoresArgument = Annotated[
    list[Path],
    typer.Argument(metavar="STORE", help="Two or more studies' stores.", autocompletion=complete_store),
]


def compare(
    stores: StoresArgument,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to write the tables and a figure to. Default: print only."),
    ] = None,
) -> None:
    """Print the arms of several stores in one table, and the differences between stores, paired by seed.

    The stores must have the same data, splits and attack; networks and trainings may differ.

    Example:  tune-interpreg compare runs/digits runs/digits-wide
    """
    from analysis.compare import print_comparison

    with report_errors():
        print_comparison(stores, console(), output)
