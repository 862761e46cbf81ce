"""Send what a store holds to a tracker, or write it to a file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.formats import files
from analysis.report import build
from analysis.results.results import Results
from tune_interpreg import registry
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.problems import describe_exception
from tune_interpreg.trackers.runs import list_runs
from tune_interpreg.trackers.tracker import TrackedRun, Tracker, TrackerError, check_trackers

#: Seconds between two looks at the store of a run, at least; and as a multiple of the time that the last look took.
INTERVAL, PAUSE = 2.0, 20.0


def export(store: Store, to: str, output: Path | None = None) -> str:
    """Send all trainings and tables of a store to the tracker ``to``, or write its results to a file.

    What the tracker has stays, and gets what it lacks. The store is only read.

    Args:
        to: name of a tracker, or a format of ``files.FORMATS``.
        output: the file; None for STORE/report/results.FORMAT.

    Returns:
        A line about what is where.

    Raises:
        TrackerError: the tracker is unknown, is not installed, or raises; an output is given with a tracker.
        StoreError: the folder is no store or has no record, or the file cannot be written.
    """
    check_trackers([to], files.FORMATS)
    if output is not None and to not in files.FORMATS:
        raise TrackerError(f"--output is the file of {' and '.join(files.FORMATS)}; {to} has none, got {output}")
    results = Results.from_store(store)
    if not results.records:
        raise StoreError(f"{store.path}: holds no record yet; run its study first")
    if to in files.FORMATS:
        return str(files.write(results, output or store.report_dir / f"results.{to}", to))
    runs = list(list_runs(results))
    with _raise_tracker_error(to):
        tracker = open_tracker(to, results.study.name)
        for run in runs:
            tracker.write_run(run)
        write_tables(tracker, store)
    return f"{to}: {len(runs)} trainings in {tracker.place}"


def follow(store: Store, to: str, before: set[str], wait: Callable[[float], bool]) -> str:
    """Send each training to a tracker once its model is judged, and at last the tables.

    before: the records that were there before, as in ``TrackedRun.records``; trainings that add none are left out.
    wait: waits so many seconds, or for the end of the run; returns whether this is the end. Errors and result as in
    ``export``.
    """
    sent: dict[str, tuple[object, ...]] = {}
    files_read: set[Path] = set()
    is_last, pause = False, INTERVAL
    with _raise_tracker_error(to):
        tracker = open_tracker(to, store.load_study().name)
        while not is_last:
            is_last = wait(pause)
            started, paths = time.monotonic(), set(store.record_files())
            runs = [] if paths == files_read else _list_new_runs(store, before)
            files_read, pause = paths, max(INTERVAL, PAUSE * (time.monotonic() - started))
            for run in runs:
                version = run.records, run.stages
                if sent.get(run.id) != version:
                    tracker.write_run(run)
                    sent[run.id] = version
        write_tables(tracker, store)
    return f"{to}: {len(sent)} trainings in {tracker.place}"


def _list_new_runs(store: Store, before: set[str]) -> list[TrackedRun]:
    runs = list_runs(Results.from_store(store))
    return [run for run in runs if run.is_complete and not run.records <= before]


def open_tracker(name: str, study: str) -> Tracker:
    """Return the tracker of a study. Raises ``UnknownName`` or ``BrokenPlugin``, or what the tracker raises."""
    tracker: Tracker = registry.resolve("trackers", name)(study)
    return tracker


def write_tables(tracker: Tracker, store: Store) -> None:
    """Compute the tables of a store in a temporary folder, because the store may be read-only, and send them."""
    with TemporaryDirectory() as folder:
        tracker.write_tables(build(store.path, output=folder).paths)


@contextmanager
def _raise_tracker_error(name: str) -> Iterator[None]:
    """In this block, raise any exception of a tracker as a ``TrackerError`` of one line."""
    try:
        yield
    except (StoreError, TrackerError):
        raise
    except (registry.UnknownName, registry.BrokenPlugin) as error:
        raise TrackerError(str(error)) from error
    except Exception as error:  # a tracker runs other packages' code, which may raise anything
        raise TrackerError(f"{name}: {describe_exception(error)}; export again once it is repaired") from error
