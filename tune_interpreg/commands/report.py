"""`tune-interpreg report`."""

from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg.commands.shared import StoreArgument, console, report_errors


def report(
    store: StoreArgument,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write to. Default: STORE/report.")
    ] = None,
) -> None:
    """Print the tables of STORE, finished or not, and write tables, figures and a page to STORE/report.

    The store itself may be read-only: name another folder with --output.

    Example:  tune-interpreg report runs/digits
    """
    from analysis.report import print_tables

    with report_errors():
        print_tables(store, console=console(), pictures=True, output=output)
