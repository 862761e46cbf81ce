"""The file of Optuna's studies: a view of the ledger that optuna-dashboard opens."""

import json
from collections.abc import Container, Generator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tune_interpreg.store.files import Damaged


class _Backend(BaseJournalBackend):
    """Optuna's journal file without its lock and its fsync, nine of each per trial.

    Only the driver writes it, and after a crash the ledger has what it lacks.
    """

    def __init__(self, path: Path):
        self._path, self._file = path, JournalFileBackend(str(path))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._path.open("ab") as file:
            file.writelines(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


class _Storage(JournalStorage):
    """Optuna's journal. ``Study.ask`` looks for enqueued trials among all trials; here, among those just enqueued."""

    def __init__(self, backend: BaseJournalBackend):
        super().__init__(backend)
        self._enqueued: list[int] = []

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        if template_trial is not None and template_trial.state == TrialState.WAITING:
            self._enqueued.append(trial_id)
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        trials = [self.get_trial(trial_id) for trial_id in self._enqueued]
        self._enqueued.clear()  # each arm takes the trial that it enqueues before any other does
        return trials


def open_journal(path: Path) -> JournalStorage:
    """Open the journal and read it whole. Only the driver writes to it.

    Raises:
        Damaged: Optuna cannot read the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_last_line(path)
        storage = _Storage(_Backend(path))
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
