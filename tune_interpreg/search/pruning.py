"""Optuna's pruners, which stop a trial by comparison with a fixed set of other trials.

Trial n is compared with trials 0 … n − parallel only, which are settled before it starts. So its pruning depends on
neither the number of workers nor the order in which trials end.
"""

from collections.abc import Container, Mapping

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from tune_interpreg.search.choice import read_metrics
from tune_interpreg.store.store import Record
from tune_interpreg.study.space import Search


class Pruning:
    """The pruner of one arm's search, with an Optuna study of its own: the curves of the trials under their numbers.

    A settled trial reports the epochs of its record that it has not reported while it ran. Its reports are then the
    same after a resumption.

    Args:
        trials: number → the settled trial. It may grow.
        epochs: of a trial.
    """

    def __init__(self, arm: str, search: Search, trials: Mapping[int, Record], epochs: int):
        self._search, self._settled = search, trials
        self._storage = _Window()
        self._study = optuna.create_study(
            study_name=arm,  # Hyperband's brackets depend on it
            storage=self._storage,
            sampler=optuna.samplers.RandomSampler(),
            pruner=make_pruner(search.pruner, epochs),
            direction="maximize",
        )
        self._trials: list[optuna.Trial] = []
        self._reports: list[dict[int, float]] = []  # value by epoch
        self._told = 0  # trials with a result

    def should_prune(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Return whether to stop a trial at ``epoch``. An epoch that is reported again is ignored."""
        goal = str(self._search.maximize)
        if goal not in metrics:
            return False
        for other in range(self._told, self._search.known_trials(number)):
            self._tell(other)
        return self._report(number, epoch, metrics[goal])

    def list_reports(self, number: int) -> list[dict[str, float]]:
        """Return the metrics that a running trial has reported, by epoch, as a record's ``curve``."""
        goal = str(self._search.maximize)
        reports = self._reports[number] if number < len(self._reports) else {}
        return [{goal: reports[epoch]} if epoch in reports else {} for epoch in range(1, max(reports, default=0) + 1)]

    def _tell(self, number: int) -> None:
        """Give trial ``number`` its result, after the rest of its curve."""
        record = self._settled[number]
        for epoch, value in read_curve(self._search, record).items():
            self._report(number, epoch, value)
        values = read_metrics(self._search, record)
        is_done = record["state"] == "done" and bool(values)
        state = (
            TrialState.COMPLETE if is_done else TrialState.PRUNED if record["state"] == "pruned" else TrialState.FAIL
        )
        self._ask_until(number)
        self._study.tell(self._trials[number], values[0] if is_done else None, state=state)
        self._told = number + 1

    def _report(self, number: int, epoch: int, value: float) -> bool:
        self._ask_until(number)
        if epoch in self._reports[number]:
            return False
        self._reports[number][epoch] = value
        self._storage.last, self._storage.current = self._search.known_trials(number) - 1, number
        trial = self._trials[number]
        trial.report(value, epoch)
        return trial.should_prune()

    def _ask_until(self, number: int) -> None:
        """Ask Optuna for all trials up to ``number``, without parameters."""
        while len(self._trials) <= number:
            self._trials.append(self._study.ask())
            self._reports.append({})


class _Window(InMemoryStorage):
    """A storage that shows only the trials up to ``last`` that did not fail or diverge, and the ``current`` one."""

    last = current = -1

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy, states)
        return [
            trial
            for trial in trials
            if trial.number == self.current or (trial.number <= self.last and trial.state != TrialState.FAIL)
        ]


def make_pruner(name: str, epochs: int) -> BasePruner:
    """Return a pruner for trials of so many epochs. The first rung of halving is the first epoch."""
    if name == "median":
        return MedianPruner(n_startup_trials=4)
    if name == "successive_halving":
        return SuccessiveHalvingPruner(min_resource=1)
    return HyperbandPruner(min_resource=1, max_resource=epochs)


def read_curve(search: Search, record: Record) -> dict[int, float]:
    """Return the metric to maximize by epoch: the record's curve, or its last value; empty for a diverged trial."""
    goal = search.maximize
    if goal is None or record["state"] == "diverged":
        return {}
    if record.get("curve"):
        return {epoch: metrics[goal] for epoch, metrics in enumerate(record["curve"], start=1) if goal in metrics}
    values = read_metrics(search, record)
    return {record["epochs"]: values[0]} if values else {}
