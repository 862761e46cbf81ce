"""The search of one arm, as an Optuna study: ask, tell, prune.

The ledger is the truth. The study in the journal is a view of it for optuna-dashboard, and is rebuilt when the two
differ. A proposal depends only on the seed, the arm, the trial's number, the ledger and the trials under way.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune_interpreg import seeding
from tune_interpreg.search.choice import STARTUP, proposal_bounds, read_goals
from tune_interpreg.search.matching.sampler import LossMatchSampler
from tune_interpreg.search.target import Target
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.space import Range, Search

optuna.logging.set_verbosity(optuna.logging.WARNING)


class ArmSearch:
    """The search of one arm.

    Samplers ignore a trial without a value, so they would keep proposing where trainings diverge. In a search that
    maximizes, a diverged trial therefore gets a value just below the worst of all done trials. A new worst value
    changes these finished trials, so the study is rebuilt. Until a trial is done, diverged trials have no value.

    Args:
        target: the loss to match, for a search with ``match_loss_of``.
        records: the settled trials of the arm, with the metrics of their judgments.

    Attributes:
        journaled: parameters in the journal at the start, by trial number.
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
        self.journaled: dict[int, list[dict[str, Scalar]]] = {}
        self._storage = storage
        self._records = {record["number"]: record for record in records}
        self._worst: list[float] = []  # value per goal over the done trials
        self._live: dict[int, optuna.Trial] = {}
        self._reports: dict[int, dict[int, float]] = {}  # of live trials: value by epoch
        self._distributions = {name: to_distribution(span) for name, span in search.ranges.items()}
        self._directions = [StudyDirection.MAXIMIZE] * len(search.goals) or [StudyDirection.MINIMIZE]
        self._pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if search.pruner == "median":
            self._pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
        self._study = self._open()

    def propose(self, number: int, params: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
        """Return the searched parameters of trial ``number``: ``params`` again if an earlier run started it."""
        if number not in self._live:
            fixed = self.search.fixed_params(number) if params is None else params
            fixed = {name: fixed[name] for name in self.search.ranges if name in fixed}
            if len(fixed) < len(self.search.ranges):
                fixed = self._avoid_failed(number, fixed)
            self._live[number] = self._ask(self._study, number, fixed)
        return self._live[number].params

    def tell_settled(self, trials: Mapping[int, Record]) -> None:
        """Give those of the settled trials (number → record) to Optuna that were proposed since this search opened."""
        for number in sorted(self._live.keys() & trials.keys()):
            self.tell(trials[number])

    def tell(self, record: Record) -> None:
        """Give a settled trial to Optuna, if it was proposed since this search was opened."""
        number = record["number"]
        self._records[number] = record
        trial, reports = self._live.pop(number, None), self._reports.pop(number, {})
        if trial is None:
            return
        if self._changes_others(record, reports):
            self._study = self._rebuild()
            return
        frozen = self._freeze(record)
        for name, value in frozen.user_attrs.items():
            if name != "number":  # set by the proposal
                trial.set_user_attr(name, value)
        for epoch in sorted(frozen.intermediate_values.keys() - reports):
            trial.report(frozen.intermediate_values[epoch], epoch)
        self._study.tell(trial, frozen.values if frozen.state == TrialState.COMPLETE else None, state=frozen.state)

    def should_prune(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Return whether the arm's pruner stops a trial at ``epoch``. Epochs of a trial must come in order."""
        if self.search.pruner == "none":
            return False
        (goal,) = self.search.goals
        trial, reports = self._live[number], self._reports.setdefault(number, {})
        if goal not in metrics or epoch in reports:  # a resumed worker reports earlier epochs again
            return False
        reports[epoch] = metrics[goal]
        trial.report(metrics[goal], epoch)
        return trial.should_prune()

    # ------------------------------------------------------------------ study
    def _open(self) -> optuna.Study:
        """Load the arm's study from the journal, or rebuild it if it differs from the ledger."""
        if self.arm not in optuna.get_all_study_names(self._storage):
            return self._rebuild()
        study = optuna.load_study(study_name=self.arm, storage=self._storage, pruner=self._pruner)
        stored = study.get_trials(deepcopy=False)
        for trial in stored:
            self.journaled.setdefault(trial.user_attrs.get("number", -1), []).append(trial.params)
        same = study.directions == self._directions
        if same and [_summarize(trial) for trial in stored] == [_summarize(trial) for trial in self._freeze_all()]:
            return study
        return self._rebuild()

    def _rebuild(self) -> optuna.Study:
        """Create the arm's study again from the records, followed by the live trials."""
        live = {number: self._live[number].params for number in sorted(self._live)}
        if self.arm in optuna.get_all_study_names(self._storage):
            optuna.delete_study(study_name=self.arm, storage=self._storage)
        study = optuna.create_study(
            study_name=self.arm, storage=self._storage, directions=self._directions, pruner=self._pruner
        )
        study.add_trials(self._freeze_all())
        for number, params in live.items():
            self._live[number] = self._ask(study, number, params)
            for epoch, value in self._reports.get(number, {}).items():
                self._live[number].report(value, epoch)
        return study

    def _freeze_all(self) -> list[FrozenTrial]:
        points = [read_goals(self.search, record) for record in self._records.values() if record["state"] == "done"]
        self._worst = [min(values) for values in zip(*filter(None, points), strict=True)]
        return [self._freeze(self._records[number]) for number in sorted(self._records)]

    def _changes_others(self, record: Record, reports: Mapping[int, float]) -> bool:
        """Return whether a record changes the view of other trials: a new worst value, or reports to be forgotten."""
        if record["state"] == "diverged":
            return bool(reports)  # the median of a pruner must not hold them
        values = read_goals(self.search, record) if record["state"] == "done" else ()
        if not values or (self._worst and all(a >= b for a, b in zip(values, self._worst, strict=True))):
            return False
        self._worst = [min(pair) for pair in zip(values, self._worst or values, strict=True)]
        return any(other["state"] == "diverged" for other in self._records.values())

    def _freeze(self, record: Record) -> FrozenTrial:
        """Return the record as a finished trial of Optuna: failed if it has no value."""
        attributes: dict[str, Any] = {name: record[name] for name in ("number", "key", "state")}
        values = read_goals(self.search, record)
        if self.target is not None:
            residual = self.target.residual(record)
            if residual == math.inf:
                attributes["sign"] = 1
            elif residual is not None:
                attributes["residual"], values = residual, (abs(residual),)
        elif record["state"] == "diverged":
            values = tuple(math.nextafter(worst, -math.inf) for worst in self._worst)
        finished = TrialState.PRUNED if record["state"] == "pruned" else TrialState.COMPLETE
        params = self._read_params(record)
        return optuna.create_trial(
            state=finished if values else TrialState.FAIL,
            values=values or None,
            params=params,
            distributions=self._distributions | self._widen_strength(record["number"], params),
            user_attrs=attributes,
            intermediate_values=self._read_curve(record),
        )

    def _read_curve(self, record: Record) -> dict[int, float]:
        """Return the single metric to maximize by epoch: the record's curve, or its last value; for a pruner."""
        if len(self.search.goals) != 1 or record["state"] == "diverged":
            return {}
        (goal,) = self.search.goals
        if "curve" in record:
            return {epoch: metrics[goal] for epoch, metrics in enumerate(record["curve"], start=1) if goal in metrics}
        values = read_goals(self.search, record)
        return {record["epochs"]: values[0]} if values else {}

    def _read_params(self, record: Record) -> dict[str, Scalar]:
        return {name: record["recipe"]["params"][name] for name in self.search.ranges}

    # --------------------------------------------------------------- proposals
    def _ask(self, study: optuna.Study, number: int, fixed: Mapping[str, Scalar]) -> optuna.Trial:
        """Ask Optuna for trial ``number`` with some or all of its parameters fixed."""
        # A sampler would compute a proposal even if every parameter is fixed.
        is_fixed = len(fixed) == len(self.search.ranges)
        study.sampler = optuna.samplers.RandomSampler() if is_fixed else self._make_sampler(number)
        if fixed:
            study.enqueue_trial(dict(fixed))
        trial = study.ask(self._distributions | self._widen_strength(number, fixed))
        trial.set_user_attr("number", number)
        return trial

    def _avoid_failed(self, number: int, fixed: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return ``fixed``, or after a failure a whole proposal that equals no failed trial.

        A Gaussian process may propose the same point for ever. Equal trials run only once, so all later ones would
        fail, too. TPE and random search draw with another seed per trial.
        """
        failed = [self._read_params(record) for record in self._records.values() if record["state"] == "failed"]
        if not failed or (self.target is None and self.search.sampler != "gp"):
            return dict(fixed)
        copy = optuna.create_study(directions=self._directions)
        copy.add_trials(self._study.get_trials(deepcopy=False))
        trial = self._ask(copy, number, fixed)
        if trial.params not in failed:
            return trial.params
        share = 0.02 * np.random.default_rng(seeding.number(self.seed, "beside", self.arm, number)).random()
        return {name: _shift(value, trial.distributions[name], share) for name, value in trial.params.items()}

    def _widen_strength(self, number: int, params: Mapping[str, Scalar]) -> dict[str, BaseDistribution]:
        """Return the distribution of a matched strength, which may be wider than the study file's."""
        if self.target is None:
            return {}
        strength = self.search.strength_name
        low, high = proposal_bounds(self.search, self._records.values(), self.target, number)
        value = float(params.get(strength, low))  # a trial of an earlier study file may lie outside of the range
        return {strength: FloatDistribution(min(low, value), max(high, value), log=True)}

    def _make_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        if self.target is not None:
            return LossMatchSampler(
                self.search.strength_name,
                self.target.loss,
                noise=self.target.noise,
                anchor=self.target.anchor,
                startup=STARTUP,
                seed=self.seed,
                among=self.search.fixed_params(number),
            )
        seed = seeding.number(self.seed, "search", self.arm, number) % 2**32
        startup = max(4, self.search.trials // 3)
        if self.search.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if self.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


def to_distribution(span: Range) -> BaseDistribution:
    """Return a searched range as Optuna's distribution."""
    if span.choice is not None:
        return CategoricalDistribution(span.choice)
    assert span.bounds is not None
    return FloatDistribution(*span.bounds, log=span.log_uniform is not None)


def _shift(value: Scalar, distribution: BaseDistribution, share: float) -> Scalar:
    """Move a number by a share of its distance to the farther end of its range. Leave choices as they are."""
    if not isinstance(distribution, FloatDistribution) or isinstance(value, str):
        return value
    low, high, position = distribution.low, distribution.high, float(value)
    if distribution.log:
        low, high, position = math.log(low), math.log(high), math.log(position)
    position += share * ((low if position > (low + high) / 2 else high) - position)
    return math.exp(position) if distribution.log else position


def _summarize(trial: FrozenTrial) -> tuple[Any, ...]:
    """Return what must agree between a trial in the journal and its record."""
    attributes = [trial.user_attrs.get(name) for name in ("key", "number", "state", "residual")]
    return *attributes, trial.state, trial.values, trial.params, trial.distributions
