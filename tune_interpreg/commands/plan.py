"""`tune-interpreg plan`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg import stopping
from tune_interpreg.commands.run import check_place
from tune_interpreg.commands.shared import RootOption, SetOption, StudyArgument, console, report_errors
from tune_interpreg.running.startup import pause_gc
from tune_interpreg.study.file.read import read_study_file


def plan(
    study: StudyArgument,
    store: Annotated[Path | None, typer.Option(help="Folder of the results so far. Default: runs/NAME.")] = None,
    overrides: SetOption = None,
    data_root: RootOption = None,
    cluster: Annotated[
        str,
        typer.Option(
            callback=check_place,
            help="Where trials would run: local, in-process, auto or HOST:PORT. It determines how many run at once.",
        ),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of trials at once, instead of what --cluster has room for.")
    ] = None,
    dollars_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="Price of a GPU.")] = None,
    dollars_per_cpu_hour: Annotated[float | None, typer.Option(min=0, help="Price of a CPU core.")] = None,
) -> None:
    """Estimate what is left of STUDY, how long it takes and what it costs. Nothing is run or written.

    Training steps, attacks, maps and checks are timed on this machine, which takes about a minute.

    If the store holds records of an arm, their times are used instead.

    Example:  tune-interpreg plan digits --workers 8
    """
    with stopping.listen_for_stops() as stop, report_errors(stop):
        with pause_gc():
            from tune_interpreg.planning.forecast import make_plan
            from tune_interpreg.planning.text import draw_plan, summarize
            from tune_interpreg.store.store import Store

            file = read_study_file(study, overrides or (), data_root)
        folder, screen = Store(store or Path("runs") / file.study.name), console()
        answer = make_plan(file, folder, where=cluster, workers=workers, console=screen)
        screen.print(draw_plan(answer))
        screen.print(f"store        {shlex.quote(str(folder.path))}", soft_wrap=True)
        for line in summarize(answer, dollars_per_gpu_hour, dollars_per_cpu_hour):
            screen.print(line, soft_wrap=True)
