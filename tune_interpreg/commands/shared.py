"""Shared by the commands: arguments and their completion, the console, error messages, exit codes."""

import atexit
import glob
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from tune_interpreg import registry, stopping
from tune_interpreg.cluster.environment import drop_tune_variables, find_bad_variables
from tune_interpreg.study.file.read import list_shipped_studies

EPILOG = "Exit codes: 0 done, 1 with failed items, 2 bad input; run again after 130 (Ctrl-C) or 143 (SIGTERM)."
INPUT_ERRORS = {"StudyError", "StoreError", "DataError", "ClusterError", "TrackerError"}
CHECKED = "Exit codes: 0 done, 2 bad input."


def prepare_process() -> None:
    """Prepare a process of the command line for the user's terminal and environment.

    A character that the output's encoding lacks is printed as ``?``. A terminal without a width counts as unknown.
    Variables that would break Ray or Tune are refused or dropped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    for name in ("COLUMNS", "LINES"):
        if os.environ.get(name, "").strip("0") == "":
            os.environ.pop(name, None)
    drop_tune_variables()
    if problems := find_bad_variables():
        print("\n".join(f"error: {problem}" for problem in problems), file=sys.stderr)
        raise SystemExit(2)


def complete_study(start: str) -> list[str]:
    """Return the shipped studies and the YAML files that begin with ``start``, for a shell's completion."""
    files = [path for suffix in ("yaml", "yml") for path in glob.glob(f"{glob.escape(start)}*.{suffix}")]
    return [*(name for name in list_shipped_studies() if name.startswith(start)), *sorted(files)]


def complete_store(start: str) -> list[str]:
    """Return the stores that begin with ``start``, and those in folders that do, such as ``runs``."""
    pattern = f"{glob.escape(start)}*"
    return sorted(os.path.dirname(path) for depth in ("", "*/") for path in glob.glob(f"{pattern}/{depth}study.yaml"))


def complete_tracker(start: str) -> list[str]:
    return [name for name in registry.names("trackers") if name.startswith(start)]


def complete_dataset(start: str) -> list[str]:
    return [name for name in registry.names("datasets") if name.startswith(start)]


StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help=f"A shipped study ({', '.join(list_shipped_studies())}) or a path to a YAML file.",
        autocompletion=complete_study,
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
        help="Folder with the data set's files (MNIST/raw/…, train/CLASS/…). Without it, published data sets are "
        "downloaded into ~/.cache/tune-interpreg.",
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRACKER",
        help="Send each training, once it is judged, and the tables at the end to mlflow or wandb; may be repeated. A "
        "process of its own does that: a server that is away costs the study nothing but a warning, and "
        "`tune-interpreg export` sends the rest later. See `tune-interpreg guide trackers`.",
        autocompletion=complete_tracker,
    ),
]
StoreArgument = Annotated[
    Path,
    typer.Argument(metavar="STORE", help="A study's store, such as runs/digits.", autocompletion=complete_store),
]
ProgramArguments = Annotated[
    list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of the program itself, after --.")
]


class _Screen(Console):
    """A console that prints texts as they are, and leaves a closed pipe to the command line's handler (see ``cli``)."""

    def on_broken_pipe(self) -> None:
        """Raise the error again: rich calls this while it handles a BrokenPipeError, and would exit with 1."""
        raise BrokenPipeError


def console() -> Console:
    """Return a console as wide as the terminal, or as COLUMNS says; a log file gets 120 columns."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return _Screen(width=width, markup=False, emoji=False, highlight=False)


def exit_stopped(code: int, message: str = "") -> NoReturn:
    """End a process that was asked to stop, after Ray's own clean-up but without the interpreter's."""
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    atexit._run_exitfuncs()
    stopping.exit_now(code, message)


@contextmanager
def report_errors(stop: stopping.Stop | None = None, *, debug: bool = False) -> Iterator[None]:
    """Turn an error of the user's input into its message and exit code 2, and a stopped run into its exit code.

    debug: raise the exception that caused the error, such as one of a plugin's code.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and stop:
            stop.request(signal.SIGTERM)  # while Ray starts, its own handler turns SIGTERM into SystemExit
        if stop and stop.requested:  # an interrupted library may raise anything
            exit_stopped(stop.code, stopping.RUN_AGAIN)
        # by class names, because importing the classes is slow
        if {base.__name__ for base in type(error).__mro__}.isdisjoint(INPUT_ERRORS):
            raise
        print(f"error: {error}", file=sys.stderr)
        if debug and error.__cause__ is not None:
            raise error.__cause__  # noqa: B904 (its own chain is the whole story)
        raise typer.Exit(2) from None


def hand_over(program: str, arguments: Iterable[str], extra: str) -> NoReturn:
    """Replace this process by a program of this Python's environment, which the dependency ``extra`` installs."""
    neighbour = Path(sys.executable).with_name(program)
    path = str(neighbour) if neighbour.exists() else shutil.which(program)
    if path is None:
        print(f"error: the program {program} is not installed; install it: pip install '{extra}'", file=sys.stderr)
        raise typer.Exit(2)
    sys.stdout.flush()
    os.execv(path, [path, *arguments])
