"""`tune-interpreg run`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg import stopping
from tune_interpreg.commands.shared import RootOption, SetOption, StudyArgument, console, leave, report_errors
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.study.file import read as study_file


def place_to_run(cluster: str) -> str:
    if not re.fullmatch(r"local|in-process|auto|[^\s/]+:\d+", cluster):
        raise typer.BadParameter(f"takes local, in-process, auto, or HOST:PORT of a running cluster, got {cluster!r}")
    return cluster


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
            callback=place_to_run,
            help="Where trials run: local (Ray on this machine), auto or HOST:PORT (a running Ray cluster), "
            "or in-process (one after another in this process, for debugging). Whoever reaches a cluster can run code "
            "there: protect it by a token. `ray get-auth-token --generate` writes ~/.ray/auth_token; copy it to every "
            "node, and set RAY_AUTH_MODE=token wherever Ray is started or used.",
        ),
    ] = "local",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run items again that failed before.")] = False,
) -> None:
    """Run all of STUDY that its store does not hold yet, then print its tables.

    Stop it whenever you like: run it again, and it goes on where it was.

    Add arms, seeds or trials to the file, and only what is new runs.

    Example:  tune-interpreg run digits --set training.epochs=2 --set 'seeds=[0,1]' --store runs/try
    """
    with stopping.listen_for_stops() as stop, report_errors(stop):
        with pause_gc():
            from tune_interpreg.running import run as running
            from tune_interpreg.store.store import Store

            file = study_file.read(study, overrides or (), data_root)
        place = Store(store or Path("runs") / file.study.name)
        outcome = running.run(file, place, where=cluster, retry_failed=retry_failed, console=console())
        if stop.asked:
            leave(outcome)
    raise typer.Exit(outcome)
