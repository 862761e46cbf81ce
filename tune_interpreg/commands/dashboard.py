"""`tune-interpreg dashboard`."""

from __future__ import annotations

from importlib.util import find_spec

from tune_interpreg.commands.serving import PortOption, ServerError, serve
from tune_interpreg.commands.shared import StoreArgument, report_errors


def dashboard(store: StoreArgument, port: PortOption = None) -> None:
    """Show the searches of a STORE in optuna-dashboard, finished or not, until Ctrl-C.

    It needs the extra: pip install 'tune-interpreg\\[dashboard]'

    It listens on this machine alone. From another one, with --port 8080: ssh -L 8080:127.0.0.1:8080 USER@HOST

    Example:  tune-interpreg dashboard runs/digits
    """
    from tune_interpreg.store.store import Store, StoreError

    with report_errors():
        if find_spec("optuna_dashboard") is None:
            raise ServerError("needs the package optuna-dashboard; install it: pip install 'tune-interpreg[dashboard]'")
        place = Store(store)
        place.study()
        if not place.journal.exists():
            raise StoreError(f"{place.journal}: is not there: no search of this study has begun; `run` begins them")
        kind = ("--storage-class", "JournalFileStorage", "--quiet")
        serve(("-m", "optuna_dashboard._cli", *kind, str(place.journal)), port, {"optuna-dashboard": ""})
