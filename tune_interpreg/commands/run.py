"""`tune-interpreg run`."""

import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg import stopping
from tune_interpreg.commands.shared import (
    RootOption,
    SetOption,
    StudyArgument,
    TrackOption,
    console,
    exit_stopped,
    report_errors,
)
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.study.file.read import read_study_file

STORE = "Folder for all results; default runs/NAME. An existing store is resumed."
CLUSTER = (
    "Where trials run: local (Ray on this machine), auto or HOST:PORT (a running Ray cluster), or in-process (one "
    "after another in this process). Anyone who can reach a cluster can run code there: protect it with a token. "
    "`ray get-auth-token --generate` writes ~/.ray/auth_token; copy it to every node, and set RAY_AUTH_MODE=token "
    "wherever Ray is started or used."
)
MIRROR = (
    "URL of a copy of the store, which the run keeps up to date and restores missing files from: s3://BUCKET/FOLDER, "
    "gs://, az://, abfs:// or file:///FOLDER. For machines that may vanish with their disks."
)
DEBUG = (
    "Run in this process, without retries. An exception ends the run with its traceback; in a terminal, the debugger "
    "opens where it was raised."
)
VERBOSE = "Print the log to standard error; -vv prints each epoch too. STORE/run.log holds it in any case."


def check_place(cluster: str) -> str:
    """Return the value of ``--cluster`` if it names a place to run. Raises ``typer.BadParameter``."""
    if not re.fullmatch(r"local|in-process|auto|[^\s/]+:\d+", cluster):
        raise typer.BadParameter(f"takes local, in-process, auto, or HOST:PORT of a running cluster, got {cluster!r}")
    return cluster


def run(
    study: StudyArgument,
    store: Annotated[Path | None, typer.Option(help=STORE)] = None,
    overrides: SetOption = None,
    data_root: RootOption = None,
    cluster: Annotated[str, typer.Option(callback=check_place, help=CLUSTER)] = "local",
    mirror: Annotated[str | None, typer.Option(metavar="URL", help=MIRROR)] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", metavar="", help="Run failed items again.")] = False,
    track: TrackOption = None,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help=DEBUG)] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, metavar="", help=VERBOSE)] = 0,
) -> None:
    """Run everything of STUDY that its store does not hold yet, then print the results.

    Stop it at any time: run it again, and it continues.

    Add arms, seeds or trials to the file: only what is new runs.

    Example:  tune-interpreg run digits --set training.epochs=2 --set 'seeds=[0,1]' --store runs/try
    """
    listening = nullcontext(stopping.Stop()) if debug else stopping.listen_for_stops()
    with listening as stop, _debugger() if debug else nullcontext(), report_errors(stop, debug=debug):
        with pause_gc():
            from tune_interpreg.running.logs import log_to_stderr
            from tune_interpreg.running.run import run as run_study
            from tune_interpreg.store.store import Record, Store

            file = read_study_file(study, overrides or (), data_root)
        folder, screen = Store(store or Path("runs") / file.study.name), console()

        def report(records: Sequence[Record]) -> None:
            from analysis.report import print_summary

            print_summary(folder.path, screen, records)

        with log_to_stderr(verbose):
            code = run_study(
                file,
                folder,
                where="in-process" if debug else cluster,
                console=screen,
                report=report,
                retry_failed=retry_failed,
                track=track or (),
                live=not verbose,
                debug=debug,
                mirror=mirror,
            )
        if stop.requested:
            exit_stopped(code)
    raise typer.Exit(code)


@contextmanager
def _debugger() -> Iterator[None]:
    """In a terminal, open the debugger where this block raises. Ctrl-C interrupts its commands."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise
        import pdb

        traceback.print_exc()
        pdb.post_mortem(error.__traceback__)
        raise typer.Exit(1) from None
