"""Parts of Optuna made lean for studies of thousands of trials. They change what a proposal costs, never what it is."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState


class Journal(JournalFileBackend):
    """The lines of one file, in the form and under the lock of Optuna's own, but left to the system to put on disk.

    A trial has about eight lines, and waiting for the disk at each took longer than all else that a driver does for
    it. What a crash of the machine takes away, the ledger gives back: there every record is on disk before it counts.
    """

    def __init__(self, path: Path):
        self._path, self._guard = path, JournalFileSymlinkLock(str(path))
        super().__init__(str(path), lock_obj=self._guard)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append a line for each log, whole before anyone else appends."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._guard.acquire()
        try:
            with self._path.open("ab") as file:
                file.write(lines.encode())
        finally:
            self._guard.release()


class TPESampler(optuna.samplers.TPESampler):
    """TPE in a study whose trials all have the same distributions: it need not look through them for these."""

    def __init__(self, distributions: Mapping[str, BaseDistribution], **settings: Any):
        super().__init__(**settings)
        self._distributions = {name: one for name, one in sorted(distributions.items()) if not one.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All that is searched; nothing where several metrics are maximized, as Optuna has it."""
        return {} if len(study.directions) > 1 else self._distributions


class Shown(InMemoryStorage):
    """A study in memory that begins with trials of another one, uncopied; new ones are numbered after them."""

    def __init__(self, trials: Sequence[FrozenTrial]):
        super().__init__()
        self._shown = trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        made = super().create_new_trial(study_id, template_trial)
        self.get_trial(made).number += 1 + max((trial.number for trial in self._shown), default=-1)
        return made

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return shown + super().get_all_trials(study_id, deepcopy, states)
