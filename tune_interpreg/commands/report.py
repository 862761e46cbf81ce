"""`tune-interpreg report`."""

from __future__ import annotations

from tune_interpreg.commands.shared import StoreArgument, console, report_errors


def report(store: StoreArgument) -> None:
    """Print the tables of a STORE, finished or not, and write them to STORE/report.

    Example:  tune-interpreg report runs/digits
    """
    from tune_interpreg.commands import reports
    from tune_interpreg.store.store import Store

    with report_errors():
        reports.print_all(Store(store), console(), pictures=True)
