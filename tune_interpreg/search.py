"""One Optuna study an arm: ask, tell, prune.

The ledger is the truth. The study in the journal is a view of it for optuna-dashboard, made anew wherever
the two differ, and a proposal depends on nothing but the seed, the arm, the trial's number and what the
ledger and the trials under way say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tune_interpreg import ledger, matches, matching, seeding
from tune_interpreg.fields import Param
from tune_interpreg.space import Range, Search
from tune_interpreg.store import Record
from tune_interpreg.target import Target

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {
    "done": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "diverged": TrialState.FAIL,
}


def journal(path: Path) -> JournalStorage:
    """The study's Optuna storage; only the driver writes to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


class ArmSearch:
    """The search of one arm.

    Args:
        arm, search: as in the study file. seed: of the sampler. storage: Optuna's.
        target: the loss to match, for a search with ``match_loss_of``.
        records: the settled search trials of this arm.
    """

    def __init__(
        self,
        arm: str,
        search: Search,
        *,
        seed: int,
        storage: optuna.storages.BaseStorage,
        target: Target | None,
        records: Sequence[Record],
    ):
        self.arm, self.search, self.seed, self.target = arm, search, seed, target
        self._records = {record["number"]: record for record in records}
        self._distributions = {name: distribution(span) for name, span in search.ranges.items()}
        self._live: dict[int, optuna.Trial] = {}
        self._study = self._opened(storage, records)

    def propose(self, number: int, params: Mapping[str, Param] | None = None) -> dict[str, Param]:
        """The searched parameters of trial ``number``; ``params`` repeats a proposal that was begun before."""
        self._study.sampler = self._sampler(number)
        fixed = self._fixed(number) if params is None else {name: params[name] for name in self.search.ranges}
        if fixed:
            self._study.enqueue_trial(fixed)
        trial = self._study.ask(self._distributions | self._widened(number, fixed))
        trial.set_user_attr("number", number)
        self._live[number] = trial
        return dict(trial.params)

    def tell(self, record: Record) -> None:
        """Give Optuna a settled trial; one that was not proposed since this study was opened, it knows already."""
        self._records[record["number"]] = record
        trial = self._live.pop(record["number"], None)
        if trial is None:
            return
        frozen = self._frozen(record)
        for name, value in frozen.user_attrs.items():
            trial.set_user_attr(name, value)
        reported = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch in sorted(frozen.intermediate_values.keys() - reported.keys()):
            trial.report(frozen.intermediate_values[epoch], epoch)
        complete = frozen.state == TrialState.COMPLETE
        self._study.tell(trial, frozen.values if complete else None, state=frozen.state)

    def should_prune(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether the arm's pruner gives up on a trial that has just reported ``epoch``."""
        if self.search.pruner == "none" or not (known := [goal for goal in self.search.goals if goal in metrics]):
            return False
        (metric,) = known
        trial = self._live[number]
        trial.report(metrics[metric], epoch)
        return trial.should_prune()

    # ------------------------------------------------------------------ Optuna
    def _opened(self, storage: optuna.storages.BaseStorage, records: Sequence[Record]) -> optuna.Study:
        """The arm's study, equal to the ledger: as the journal has it, or made anew from the records."""
        frozen = [self._frozen(record) for record in records]
        directions = [StudyDirection.MAXIMIZE] * len(self.search.goals) or [StudyDirection.MINIMIZE]
        median = self.search.pruner == "median"
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4) if median else optuna.pruners.NopPruner()
        if self.arm in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=self.arm, storage=storage, pruner=pruner)
            known = [_told(trial) for trial in study.get_trials(deepcopy=False)]
            if study.directions == directions and known == [_told(trial) for trial in frozen]:
                return study
            optuna.delete_study(study_name=self.arm, storage=storage)
        study = optuna.create_study(study_name=self.arm, storage=storage, directions=directions, pruner=pruner)
        study.add_trials(frozen)
        return study

    def _frozen(self, record: Record) -> optuna.trial.FrozenTrial:
        state = _STATES[record["state"]]
        attributes: dict[str, Any] = {"number": record["number"], "key": record["key"]}
        values = self._values(record, attributes)
        if values is None and state == TrialState.COMPLETE:
            state = TrialState.FAIL
        params = {name: record["recipe"]["params"][name] for name in self.search.ranges}
        return optuna.create_trial(
            state=state,
            values=values if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
            params=params,
            distributions=self._distributions | self._widened(record["number"], params),
            user_attrs=attributes,
            intermediate_values=self._reports(record),
        )

    def _reports(self, record: Record) -> dict[int, float]:
        """The one metric to maximize by epoch, as far as the record tells: along its curve, else at its end."""
        if len(self.search.goals) != 1:
            return {}
        (metric,) = self.search.goals
        if "curves" in record:
            (curve,) = record["curves"].values()
            return {epoch: one[metric] for epoch, one in enumerate(curve, start=1) if metric in one}
        end = ledger.mean(record, metric)
        return {} if end is None else {record["epochs"]: end}

    def _values(self, record: Record, attributes: dict[str, Any]) -> list[float] | None:
        """The metrics to maximize, or |residual|; the residual, or its sign alone, becomes an attribute."""
        if self.target is None:
            known = [value for goal in self.search.goals if (value := ledger.mean(record, goal)) is not None]
            return known if len(known) == len(self.search.goals) else None
        residual = self.target.residual(record)
        if residual is None or math.isinf(residual):
            attributes |= {} if residual is None else {"sign": 1}
            return None
        attributes["residual"] = residual
        return [abs(residual)]

    # --------------------------------------------------------------- proposals
    def _fixed(self, number: int) -> dict[str, Param]:
        """What no sampler decides: the grid's combination of this trial, or that of a match's choices."""
        if self.search.grid:
            return self.search.combinations()[number]
        return {} if self.target is None else matches.combination(self.search, number)

    def _widened(self, number: int, params: Mapping[str, Param]) -> dict[str, BaseDistribution]:
        """The distribution of a matched strength, where its range is no longer the file's own."""
        if self.target is None:
            return {}
        strength = self.search.strength
        earlier = [record for record in self._records.values() if record["number"] < number]
        fixed = matches.combination(self.search, number)
        (own,) = [one for one in matches.combinations(self.search, earlier, self.target) if one.fixed == fixed]
        low, high = own.bounds
        at = params.get(strength, low)
        # A trial of an earlier file may lie outside of today's range.
        return {strength: FloatDistribution(min(low, float(at)), max(high, float(at)), log=True)}

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = seeding.number(self.seed, "search", self.arm, number) % 2**32
        if self.target is not None:
            return matching.LossMatchSampler(
                self.search.strength,
                self.target.loss,
                noise=self.target.noise,
                anchor=self.target.anchor,
                startup=matches.STARTUP,
                seed=self.seed,
                among=matches.combination(self.search, number),
            )
        startup = max(4, self.search.trials // 3)
        if self.search.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if self.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


def distribution(span: Range) -> BaseDistribution:
    """Optuna's form of a searched range."""
    if span.choice is not None:
        return CategoricalDistribution(span.choice)
    assert span.bounds is not None
    return FloatDistribution(*span.bounds, log=span.log_uniform is not None)


def _told(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
    attributes = trial.user_attrs.get("key"), trial.user_attrs.get("number"), trial.user_attrs.get("residual")
    return *attributes, trial.state, trial.values, trial.params, trial.distributions
