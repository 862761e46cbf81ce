"""The file of Optuna's studies: a view of the ledger that optuna-dashboard opens."""

import json
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tune_interpreg.store.files import Damaged


def open_journal(path: Path) -> JournalStorage:
    """Open the journal and read it whole. Only the driver writes to it.

    Raises:
        Damaged: Optuna cannot read the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_last_line(path)
        storage = JournalStorage(JournalFileBackend(str(path)))
        for name in optuna.get_all_study_names(storage):
            optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except OSError:
        raise
    except Exception as error:  # a damaged file may fail anywhere in Optuna's reader
        raise Damaged(path, f"is damaged: Optuna cannot read it ({error!r})") from None
    return storage


def _check_last_line(path: Path) -> None:
    """Raise ValueError for an incomplete last line, which Optuna ignores until another line follows."""
    content = path.read_bytes() if path.exists() else b""
    if content:
        json.loads(content.splitlines()[-1])
        if not content.endswith(b"\n"):
            raise ValueError("its last line is incomplete")
