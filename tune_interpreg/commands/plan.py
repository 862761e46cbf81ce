"""`tune-interpreg plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg import stopping
from tune_interpreg.commands.run import place_to_run
from tune_interpreg.commands.shared import RootOption, SetOption, StudyArgument, console, report_errors
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.study.file import read as study_file


def _place_to_run(cluster: str | None) -> str | None:
    return None if cluster is None else place_to_run(cluster)


def plan(
    study: StudyArgument,
    store: Annotated[Path | None, typer.Option(help="Folder of the results so far; default runs/NAME.")] = None,
    overrides: SetOption = None,
    data_root: RootOption = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            callback=_place_to_run,
            help="Where trials would run, which says how many at once: local, in-process, auto or HOST:PORT; default "
            "local, or where --costs was measured.",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many trials would run at once, instead.")] = None,
    costs: Annotated[
        Path | None, typer.Option(help="Take the times of another device, from a file that --save wrote there.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep what was measured, of all pieces of the study.")] = None,
    dollars_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="The price of a GPU.")] = None,
    dollars_per_cpu_hour: Annotated[float | None, typer.Option(min=0, help="The price of a CPU core.")] = None,
) -> None:
    """Say what would run of STUDY, how long it takes, and what it costs; nothing runs.

    Nothing is written but what --save names, and data that have to be downloaded.

    What records of the study do not tell is measured: a few real steps of each method on this machine.

    Example:  tune-interpreg plan digits --workers 8
    """
    with stopping.listen_for_stops() as stop, report_errors(stop):
        with pause_gc():
            from tune_interpreg.planning import forecast, text
            from tune_interpreg.store.store import Store

            file = study_file.read(study, overrides or (), data_root)
        place = Store(store or Path("runs") / file.study.name)
        asked = forecast.Question(cluster, workers, costs, save)
        shown = console()
        answer = forecast.planned(file, place, asked, shown)
        shown.print(text.tree(answer, place.path), highlight=False)
        for line in text.summary(answer, dollars_per_gpu_hour, dollars_per_cpu_hour):
            shown.print(line, soft_wrap=True, highlight=False, markup=False)
