"""What the commands have in common: their arguments, how errors are told, how wide is printed."""

from __future__ import annotations

import atexit
import os
import signal
import sys
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


class Told:
    """Turns the errors that a user can mend into their message and exit code 2, and a stop into how to go on."""

    def __init__(self, stop: stopping.Stop | None = None):
        self._stop = stop

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SystemExit) and self._stop:
            self._stop.ask(signal.SIGTERM)  # while Ray starts, SIGTERM is its own to handle
        if kind is not None and self._stop and self._stop.asked:  # what is interrupted may raise anything
            leave(self._stop.code, stopping.GO_ON)
        if kind is not None and _is_users(kind):
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None


def _is_users(kind: type[BaseException]) -> bool:
    """Whether the exception tells the user what to mend; by name, so that none of their modules is imported here."""
    return not {"StudyError", "StoreError", "DataError", "ClusterError", "ServerError"}.isdisjoint(
        one.__name__ for one in kind.__mro__
    )
