"""What the commands have in common: their arguments, how errors are told, how wide is printed."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from tune_interpreg import stopping
from tune_interpreg.commands import completing
from tune_interpreg.study.file import read as study_file

EPILOG = (
    "Exit codes: 0 done, 1 done but with failed items, 2 bad input, 130 interrupted by Ctrl-C, 143 by SIGTERM "
    "(run again to go on)."
)
CHECKED = "Exit codes: 0 done, 2 bad input."

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help=f"A shipped study ({', '.join(study_file.shipped())}) or a path to a YAML file.",
        autocompletion=completing.studies,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the file, e.g. training.epochs=2; checked like the file; may be repeated.",
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder with the data set's files (MNIST/raw/…, train/CLASS/…); without it they are downloaded.",
    ),
]
StoreArgument = Annotated[
    Path,
    typer.Argument(metavar="STORE", help="A study's store, such as runs/digits.", autocompletion=completing.stores),
]


def console() -> Console:
    """As wide as the terminal, or as COLUMNS says; a log has room for whole tables."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def leave(code: int, message: str = "") -> NoReturn:
    """End a process that was asked to stop: Ray's own clean-up, but not the interpreter's."""
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    atexit._run_exitfuncs()
    stopping.leave(code, message)


@contextmanager
def report_errors(stop: stopping.Stop | None = None) -> Iterator[None]:
    """Turn an error of the user's input into its message and exit code 2, and a stopped run into its exit code."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and stop:
            stop.ask(signal.SIGTERM)  # while Ray starts, its own handler turns SIGTERM into SystemExit
        if stop and stop.asked:  # an interrupted library may raise anything
            leave(stop.code, stopping.RUN_AGAIN)
        if not _is_input_error(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _is_input_error(error: BaseException) -> bool:
    """Return whether the message is for the user. Decided by class names, because importing the classes is slow."""
    names = {"StudyError", "StoreError", "DataError", "ClusterError", "ServerError"}
    return any(base.__name__ in names for base in type(error).__mro__)
