"""Parts of Optuna made lean for studies of thousands of trials. They change what a proposal costs, never what it is."""

from __future__ import annotations

import json
from array import array
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.sampler import default_gamma
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


class Known:
    """What TPE takes from the trials of a search that maximizes one metric: columns of numbers, a row a trial.

    A look through thousands of Optuna's own trials costs it more than all that it computes from them.

    Args:
        distributions: of all that is searched. trials: those that there are, in the order of their numbers.
    """

    DONE, PRUNED, RUNNING, DIVERGED, LOST = range(5)

    def __init__(self, distributions: Mapping[str, BaseDistribution], trials: Iterable[FrozenTrial] = ()):
        self.distributions = {name: one for name, one in sorted(distributions.items()) if not one.single()}
        self._states, self._values, self._epochs = array("b"), array("d"), array("d")
        self._params = array("d")  # Optuna's inner numbers, those of a trial side by side
        for number, trial in enumerate(trials):
            self.start(trial.params)
            self.settle(number, trial)

    def start(self, params: Mapping[str, Any]) -> None:
        """Take the next trial, which runs from now on."""
        self._states.append(self.RUNNING)
        self._values.append(0.0)
        self._epochs.append(0.0)
        self._params.extend(one.to_internal_repr(params[name]) for name, one in self.distributions.items())

    def settle(self, number: int, trial: FrozenTrial) -> None:
        """Take what became of a trial: its value, or how far it came and its value there."""
        if trial.state == TrialState.COMPLETE:
            self._states[number], self._values[number] = self.DONE, trial.values[0]
        elif trial.state == TrialState.PRUNED:
            self._states[number] = self.PRUNED
            self._epochs[number], self._values[number] = max(trial.intermediate_values.items(), default=(-1, 0.0))
        elif trial.state.is_finished():
            self._states[number] = self.DIVERGED if trial.user_attrs.get("state") == "diverged" else self.LOST

    def parted(self, startup: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
        """The parameters of the best trials and of the others, as TPE parts them; None before so many have ended.

        The best are at most 25, and a tenth: of those that are done by their values, then of the pruned ones those that
        came farthest. A diverged trial counts as done, with the worst value of any that is, and as the last of all.
        """
        states, values, epochs = (np.array(column) for column in (self._states, self._values, self._epochs))
        done, diverged = states == self.DONE, states == self.DIVERGED
        if done.any():
            values[diverged], states[diverged] = values[done].min(), self.DONE
        counts = states <= self.RUNNING
        number_R = np.concatenate([np.flatnonzero(counts & ~diverged), np.flatnonzero(counts & diverged)])
        states, values, epochs = states[number_R], values[number_R], epochs[number_R]
        ended = int((states < self.RUNNING).sum())
        if ended < startup:
            return None
        ranked_R, share = np.lexsort((-values, -epochs, states)), default_gamma(ended)
        params_RP = np.array(self._params).reshape(len(self._states), -1)[number_R]
        best, others = (params_RP[np.sort(part)].T for part in (ranked_R[:share], ranked_R[share:]))
        names = self.distributions
        return dict(zip(names, best, strict=True)), dict(zip(names, others, strict=True))


class TPESampler(optuna.samplers.TPESampler):
    """Optuna's TPE, over the trials of which ``known`` tells, whatever study it is asked in."""

    def __init__(self, known: Known, *, startup: int, seed: int):
        super().__init__(seed=seed, n_startup_trials=startup)
        self._known = known

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All that is searched."""
        return self._known.distributions

    def _sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        parted = self._known.parted(self._n_startup_trials) if search_space else None
        if parted is None:
            return {}
        best, others = (_ParzenEstimator(part, search_space, self._parzen_estimator_parameters) for part in parted)
        drawn = best.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(drawn, self._compute_acquisition_func(drawn, best, others))
        return {name: one.to_external_repr(chosen[name]) for name, one in search_space.items()}


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
