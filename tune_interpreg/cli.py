"""The command line: run, report, validate. Errors are one message on standard error, with exit code 2."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tune_interpreg import __version__, study_file

EPILOG = (
    "Exit codes: 0 done, 1 done but with failed items, 2 bad input, 130 interrupted by Ctrl-C, 143 by SIGTERM "
    "(run again to go on)."
)
CHECKED = "Exit codes: 0 done, 2 bad input."

app = typer.Typer(
    name="tune-interpreg",
    help=(
        "Which regularizer, at which strength, over how many seeds: trains and searches every arm of a study "
        "on Ray Tune and Optuna, and ends with tables of means and 95% intervals.\n\n"
        "Start with:  tune-interpreg run digits"
    ),
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help=f"A shipped study ({', '.join(study_file.shipped())}) or a path to a YAML file."
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


def _place_to_run(cluster: str) -> str:
    if not re.fullmatch(r"local|in-process|auto|\S+:\d+", cluster):
        raise typer.BadParameter(f"takes local, in-process, auto, or HOST:PORT of a running cluster, got {cluster!r}")
    return cluster


def main() -> None:
    """Entry point of the ``tune-interpreg`` command."""
    app()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"tune-interpreg {__version__}")
        raise typer.Exit()


@app.command(epilog=EPILOG)
def run(
    study: StudyArgument,
    store: Annotated[
        Path | None, typer.Option(help="Folder for all results; default runs/NAME. An existing one is gone on with.")
    ] = None,
    overrides: SetOption = None,
    data_root: RootOption = None,
    cluster: Annotated[
        str,
        typer.Option(
            callback=_place_to_run,
            help="Where trials run: local (Ray on this machine), auto or HOST:PORT (a running Ray cluster), "
            "or in-process (one after another in this process, for debugging).",
        ),
    ] = "local",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run items again that failed before.")] = False,
) -> None:
    """Run all of STUDY that its store does not hold yet, then print its tables.

    Stop it whenever you like: run it again, and it goes on where it was.

    Add arms, seeds or trials to the file, and only what is new runs.

    Example:  tune-interpreg run digits --set training.epochs=2 --set 'seeds=[0,1]' --store runs/try
    """
    from tune_interpreg import running
    from tune_interpreg.store import Store

    with _Told():
        file = study_file.read(study, overrides or (), data_root)
        place = Store(store or Path("runs") / file.study.name)
        outcome = running.run(file, place, where=cluster, retry_failed=retry_failed, console=_console())
    raise typer.Exit(outcome)


@app.command(epilog=CHECKED)
def report(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A study's store, such as runs/digits.")],
) -> None:
    """Print the tables of a STORE, finished or not, and write them to STORE/report.

    Example:  tune-interpreg report runs/digits
    """
    from tune_interpreg import reports
    from tune_interpreg.store import Store

    with _Told():
        reports.print_all(Store(store), _console())


@app.command(epilog=CHECKED)
def validate(study: StudyArgument, overrides: SetOption = None, data_root: RootOption = None) -> None:
    """Check STUDY without running it: all problems at once, each with file and line; nothing is written.

    Example:  tune-interpreg validate my-study.yaml --set attack.eps=0.5
    """
    with _Told():
        checked = study_file.read(study, overrides or (), data_root).study
    arms = ", ".join(checked.arms)
    typer.echo(f"{checked.name}: valid; {len(checked.arms)} arms ({arms}), {len(checked.seeds)} seeds")


def _console() -> Console:
    """As wide as the terminal, or as COLUMNS says; a log has room for whole tables."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


class _Told:
    """Turns the errors that a user can mend into their message and exit code 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and _is_users(kind):
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None


def _is_users(kind: type[BaseException]) -> bool:
    """Whether the exception tells the user what to mend; by name, so that none of their modules is imported here."""
    return kind.__name__ in {"StudyError", "StoreError", "DataError", "ClusterError"}
