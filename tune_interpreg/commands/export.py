"""`tune-interpreg export`."""

from pathlib import Path
from typing import Annotated

import typer

from tune_interpreg.commands.shared import StoreArgument, complete_tracker, report_errors

TO = "mlflow, wandb, csv or parquet, or a tracker that another package registers."
OUTPUT = "File of csv or parquet. Default: STORE/report/results.csv, or .parquet."


def complete_target(start: str) -> list[str]:
    """Return the trackers and the formats of files that begin with ``start``."""
    return complete_tracker(start) + [name for name in ("csv", "parquet") if name.startswith(start)]


def export(
    to: Annotated[str, typer.Argument(metavar="TO", help=TO, autocompletion=complete_target)],
    store: StoreArgument,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help=OUTPUT)] = None,
) -> None:
    """Send the trainings and tables of STORE, finished or not, to a tracker, or write its results to a file.

    A tracker gets one run per training, by arm: its parameters, its metrics by epoch, its results, and the tables as
    artifacts. A later export adds what is new, and makes no run twice.

    MLFLOW_TRACKING_URI, WANDB_MODE, WANDB_PROJECT and all other variables of the tracker count.

    csv and parquet hold the rows of tune_interpreg.results: one per arm, seed and metric.

    Example:  tune-interpreg export mlflow runs/digits
    """
    with report_errors():
        from tune_interpreg.store.store import Store
        from tune_interpreg.trackers.export import export as export_store

        typer.echo(export_store(Store(store), to, output))
