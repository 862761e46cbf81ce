"""The commands as functions for notebooks and scripts, with the same checks. ``tune_interpreg`` offers them by name.

Errors are raised: ``StudyError``, ``StoreError``, ``DataError``, ``ClusterError`` or ``TrackerError``, with the message
of the command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tune_interpreg import packages, stopping
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import StudyFile, check_study, read_study_file
from tune_interpreg.study.file.yaml_text import dump
from tune_interpreg.study.problems import Problem, StudyError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.compare import StoreComparison
    from analysis.figures.canvas import Figure
    from tune_interpreg.planning.forecast import Plan
    from tune_interpreg.status.facts import Status
    from tune_interpreg.store.store import Record

#: A study, the name of a shipped one, or the path of a study file.
AnyStudy = Study | str | Path


def run(
    study: AnyStudy,
    store: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    data_root: str | Path | None = None,
    cluster: str = "local",
    retry_failed: bool = False,
    track: Iterable[str] = (),
    mirror: str | None = None,
) -> pd.DataFrame:
    """Run everything of a study that its store does not hold yet, print the results and return them.

    A notebook shows the tree of arms with their progress. An interrupted run raises ``KeyboardInterrupt``; called
    again, it continues.

    Args:
        study: a ``Study``, the name of a shipped study, or the path of a study file.
        store: the folder of the results; None for runs/NAME.
        overrides: ``a.b=value``; each replaces a value of a study file.
        data_root: the folder of the data set's files; None for the study's.
        cluster: ``local`` (Ray on this machine), ``in-process``, or a Ray cluster: ``auto`` or HOST:PORT.
        retry_failed: run failed items again.
        track: trackers that receive what this run adds, such as ``mlflow``; see ``export``.
        mirror: URL of a copy of the store, which is kept up to date and supplies what the store lacks.

    Returns:
        The rows of ``tune_interpreg.results``; the column ``state`` says what failed.
    """
    file = _read(study, overrides, data_root)
    with packages.visible(), stopping.listen_for_stops(limit=False) as stop:
        from analysis.report import print_summary
        from analysis.results import frame
        from tune_interpreg.running.run import run as run_study
        from tune_interpreg.store.store import Store

        console = Console(markup=False, emoji=False, highlight=False)
        place = Store(Path("runs") / file.study.name if store is None else store)

        def show_results(records: Sequence[Record]) -> None:
            print_summary(place.path, console, records)

        run_study(
            file,
            place,
            where=cluster,
            console=console,
            report=show_results,
            retry_failed=retry_failed,
            track=tuple(track),
            mirror=mirror,
        )
        if stop.requested:
            raise KeyboardInterrupt(stopping.RUN_AGAIN)
        return frame.results(place.path)


def plan(
    study: AnyStudy,
    store: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    data_root: str | Path | None = None,
    cluster: str = "local",
    workers: int | None = None,
) -> Plan:
    """Estimate what is left of a study and how long it takes, and print it. Runs nothing; arguments as in ``run``.

    workers: trials at once; None for as many as the cluster has room for.
    """
    file = _read(study, overrides, data_root)
    with packages.visible(), stopping.listen_for_stops(limit=False):
        from tune_interpreg.planning.forecast import make_plan
        from tune_interpreg.planning.text import draw_plan, summarize
        from tune_interpreg.store.store import Store

        console = Console(markup=False, emoji=False, highlight=False)
        place = Store(Path("runs") / file.study.name if store is None else store)
        estimate = make_plan(file, place, where=cluster, workers=workers, console=console)
        console.print(draw_plan(estimate))
        for line in summarize(estimate):
            console.print(line, soft_wrap=True)
        return estimate


def read_status(store: str | Path) -> Status:
    """Return the progress of the study in a store, at any time and from any machine that sees the folder."""
    from tune_interpreg.status.observer import Observer
    from tune_interpreg.store.store import Store

    return Observer(Store(store)).read_status()


def report(store: str | Path, output: str | Path | None = None) -> dict[str, pd.DataFrame]:
    """Write tables, figures and the page of a store, and return its tables: title → a frame of the printed cells.

    output: the folder to write to; None for STORE/report.
    """
    with packages.visible():
        from analysis.formats.render import to_frame
        from analysis.report import build

        return {table.title: to_frame(table) for table in build(store, pictures=True, output=output).tables}


def export(store: str | Path, to: str, output: str | Path | None = None) -> str:
    """Send a store to the tracker ``to``, or write it to a file; see ``tune_interpreg.trackers.export.export``."""
    with packages.visible():
        from tune_interpreg.store.store import Store
        from tune_interpreg.trackers.export import export

        return export(Store(store), to, None if output is None else Path(output))


def compare(*stores: str | Path, output: str | Path | None = None) -> StoreComparison:
    """Compare the arms of several stores (see ``analysis.compare.compare``)."""
    with packages.visible():
        from analysis.compare import compare

        return compare(*stores, output=output)


def figure(store: str | Path, name: str) -> Figure:
    """Return a figure of a store as matplotlib's, with its axes as ``.axes``.

    name: as its file in STORE/report/figures, such as ``accuracies``. Raises ValueError if there is none of that name,
    or if the store lacks its data.
    """
    with packages.visible():
        from analysis.figures import make_figure
        from analysis.results.results import Results
        from tune_interpreg.store.store import Store

        place = Store(store)
        return make_figure(name, Results.from_store(place), place)


def read_study(source: str | Path, overrides: Iterable[str] = (), data_root: str | Path | None = None) -> Study:
    """Return a shipped study or that of a file, checked; arguments as in ``run``."""
    return _read(source, overrides, data_root).study


def write_study(study: Study, path: str | Path, *, overwrite: bool = False) -> None:
    """Check a study and write it to a file, which holds what differs from the defaults.

    overwrite: replace an existing file, which is refused otherwise.
    """
    check_study(study)
    content = study.model_dump(mode="json", exclude_defaults=True)
    try:
        with Path(path).open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(dump(content))
    except FileExistsError:
        message = "exists already; give another path, or overwrite=True"
        raise StudyError([Problem(str(path), "", message)]) from None


def _read(study: AnyStudy, overrides: Iterable[str], data_root: str | Path | None) -> StudyFile:
    root = None if data_root is None else Path(data_root)
    if not isinstance(study, Study):
        return read_study_file(str(study), overrides, root)
    if list(overrides):
        raise StudyError([Problem(study.name, "", "overrides belong to study files; change the Study itself")])
    if root is not None:
        study = study.model_copy(update={"data": study.data.model_copy(update={"root": str(root.absolute())})})
    return check_study(study)
