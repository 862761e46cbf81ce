"""`tune-interpreg dashboard`."""

from tune_interpreg.commands.shared import ProgramArguments, StoreArgument, hand_over, report_errors


def dashboard(store: StoreArgument, arguments: ProgramArguments = None) -> None:
    """Start optuna-dashboard on the searches of a STORE, finished or not.

    It needs an extra: pip install 'tune-interpreg\\[dashboard]'

    Everything after -- goes to optuna-dashboard itself.

    It listens on this machine only. From another machine: ssh -L 8080:localhost:8080 USER@HOST

    Example:  tune-interpreg dashboard runs/digits -- --port 8081
    """
    from tune_interpreg.store.files import StoreError
    from tune_interpreg.store.store import Store

    with report_errors():
        opened = Store(store)
        opened.load_study()
        if not opened.journal.exists():
            raise StoreError(f"{opened.journal}: does not exist, because no search of this study has begun; use `run`")
        options = ["--storage-class", "JournalFileStorage", str(opened.journal)]
        hand_over("optuna-dashboard", [*options, *(arguments or ())], "tune-interpreg[dashboard]")
