"""`tune-interpreg report`."""

from tune_interpreg.commands.shared import StoreArgument, console, report_errors


def report(store: StoreArgument) -> None:
    """Print the tables of STORE, finished or not, and write tables, figures and a page to STORE/report.

    Example:  tune-interpreg report runs/digits
    """
    from analysis.report import print_tables
    from tune_interpreg.store.files import raise_refused

    with report_errors(), raise_refused(store.absolute()):
        print_tables(store, console=console(), pictures=True)
