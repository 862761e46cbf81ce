"""The search of one arm, as an Optuna study: ask and tell in the order of the trials' numbers.

The ledger is the truth. The study in the journal is made again from it by each run, and optuna-dashboard shows it.
"""

import itertools
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from tune_interpreg import seeding
from tune_interpreg.search.bounds import Bounds
from tune_interpreg.search.choice import proposal_bounds, read_metrics
from tune_interpreg.search.matching.sampler import LossMatchSampler
from tune_interpreg.search.pruning import Pruning, read_curve
from tune_interpreg.search.target import Target
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.setting import read_params
from tune_interpreg.study.space import Range, Search

optuna.logging.set_verbosity(optuna.logging.WARNING)


class ArmSearch:
    """The search of one arm.

    Optuna's study holds the trials under their own numbers. When it proposes trial n, it knows the results of trials
    0 … n − parallel. The later ones are running for it, even if they have ended. So a proposal depends neither on the
    number of workers nor on the order in which trials end.

    Samplers ignore a trial without a value, so they would keep proposing where trainings diverge. In a search that
    maximizes, a diverged trial therefore gets metrics just below the worst of the done trials that the study knows. A
    new worst value changes these finished trials, so the study is made again. Until a trial is done, diverged trials
    have no value. The shortfalls of ``where`` are Optuna's constraints.

    Args:
        target: the metric to match, for a search that matches one.
        bounds: the least values of other metrics, for a search with ``where``.
        trials: number → the settled trial, with the metrics of its judgments. It may grow.
        epochs: of a trial.
    """

    def __init__(
        self,
        arm: str,
        search: Search,
        *,
        seed: int,
        storage: optuna.storages.BaseStorage,
        target: Target | None = None,
        bounds: Bounds | None = None,
        trials: Mapping[int, Record],
        epochs: int,
    ):
        self.arm, self.search, self.seed, self.target, self.bounds = arm, search, seed, target, bounds or Bounds()
        self._storage, self._trials = storage, trials
        self._proposals: dict[int, dict[str, Scalar]] = {}
        self._distributions = {name: to_distribution(span) for name, span in search.ranges.items()}
        self._direction = StudyDirection.MAXIMIZE if search.maximize else StudyDirection.MINIMIZE
        self.pruning = None if search.pruner == "none" else Pruning(arm, search, trials, epochs)
        self._restart()

    def propose(self, number: int, params: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
        """Return the searched parameters of trial ``number``: ``params`` again if an earlier run started it.

        The trials that it is proposed from must be settled (``Search.known_trials``), the others before it proposed.
        """
        if number not in self._proposals:
            fixed = self.search.fixed_params(number) if params is None else params
            fixed = {name: fixed[name] for name in self.search.ranges if name in fixed}
            self._go_to(number, self.search.known_trials(number))
            if len(fixed) < len(self.search.ranges):
                fixed = self._avoid_failed(number, fixed)
            trial = self._ask(self._study, number, fixed)
            self._asked.append(trial)
            self._proposals[number] = trial.params
        return self._proposals[number]

    def finish(self) -> None:
        """Give the study the last results, which no proposal needs, for optuna-dashboard."""
        settled = next(number for number in itertools.count(self._told) if number not in self._trials)
        if settled > self._told:
            self._go_to(settled, settled)

    def should_prune(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Return whether the arm's pruner stops a trial at ``epoch``. Epochs of a trial must come in order."""
        return self.pruning is not None and self.pruning.should_prune(number, epoch, metrics)

    # ------------------------------------------------------------------ study
    def _restart(self) -> None:
        """Make the study again, without trials."""
        if self.arm in optuna.get_all_study_names(self._storage):
            optuna.delete_study(study_name=self.arm, storage=self._storage)
        self._study = optuna.create_study(study_name=self.arm, storage=self._storage, direction=self._direction)
        self._asked: list[optuna.Trial | None] = []  # by number; None if the study got the trial with its result
        self._told = 0  # trials with a result
        self._worst: tuple[float, ...] = ()  # by metric, over the trials with a result
        self._has_diverged = False

    def _go_to(self, number: int, results: int) -> None:
        """Bring the study to the state before trial ``number``. It then has the results of the first ``results``."""
        worst = self._find_worst(self._told, results)
        if number < len(self._asked) or (self._has_diverged and worst != self._worst):
            self._restart()
            worst = self._find_worst(0, results)
        self._worst = worst
        for other in range(self._told, results):
            self._tell(other)
        for other in range(len(self._asked), number):
            self._asked.append(self._ask(self._study, other, self._params_of(other)))

    def _find_worst(self, start: int, end: int) -> tuple[float, ...]:
        """Return the worst value per metric over the trials with a result and trials ``start`` … ``end`` − 1."""
        records = (self._trials[number] for number in range(start, end))
        points = [read_metrics(self.search, record) for record in records if record["state"] == "done"]
        return tuple(min(values) for values in zip(*filter(None, [self._worst if start else (), *points]), strict=True))

    def _tell(self, number: int) -> None:
        """Give trial ``number``, the next one, its result."""
        frozen = self._freeze(self._trials[number])
        self._told, self._has_diverged = number + 1, self._has_diverged or frozen.user_attrs["state"] == "diverged"
        if number == len(self._asked):
            self._study.add_trial(frozen)
            self._asked.append(None)
            return
        trial, self._asked[number] = self._asked[number], None
        assert trial is not None
        for name, value in frozen.user_attrs.items():
            if name != "number":  # set by the proposal
                trial.set_user_attr(name, value)
        for epoch, value in frozen.intermediate_values.items():
            trial.report(value, epoch)
        for metric, shortfall in frozen.constraints.items():
            trial.set_constraint(metric, shortfall)
        self._study.tell(trial, frozen.values if frozen.state == TrialState.COMPLETE else None, state=frozen.state)

    def _params_of(self, number: int) -> dict[str, Scalar]:
        """Return the parameters of a started trial."""
        return self._read_params(self._trials[number]) if number in self._trials else self._proposals[number]

    def _freeze(self, record: Record) -> FrozenTrial:
        """Return the record as a finished trial of Optuna: failed if it has no value."""
        attributes: dict[str, Any] = {name: record[name] for name in ("number", "key", "state")}
        metrics = read_metrics(self.search, record)
        values, constraints = metrics[:1], dict[str, float]()
        if self.target is not None:
            residual = self.target.residual(record)
            if residual == math.inf:
                attributes["sign"] = 1
            elif residual is not None:
                attributes["residual"], values = residual, (abs(residual),)
        else:
            if record["state"] == "diverged":
                metrics = tuple(math.nextafter(worst, -math.inf) for worst in self._worst)
                values = metrics[:1]
            if metrics:
                constraints = self.bounds.shortfalls(dict(zip(self.search.where, metrics[1:], strict=True)))
        finished = TrialState.PRUNED if record["state"] == "pruned" else TrialState.COMPLETE
        params = self._read_params(record)
        return optuna.create_trial(
            state=finished if values else TrialState.FAIL,
            values=values or None,
            params=params,
            distributions=self._distributions | self._widen_strength(record["number"], params),
            user_attrs=attributes,
            intermediate_values=read_curve(self.search, record),
            constraints=constraints,
        )

    def _read_params(self, record: Record) -> dict[str, Scalar]:
        return read_params(record["recipe"], self.search.ranges)

    # --------------------------------------------------------------- proposals
    def _ask(self, study: optuna.Study, number: int, fixed: Mapping[str, Scalar]) -> optuna.Trial:
        """Ask Optuna for trial ``number`` with some or all of its parameters fixed."""
        # A sampler would compute a proposal even if every parameter is fixed.
        is_fixed = len(fixed) == len(self.search.ranges)
        study.sampler = optuna.samplers.RandomSampler() if is_fixed else self._make_sampler(number)
        if fixed:
            study.enqueue_trial(dict(fixed))
        distributions = self._distributions | self._widen_strength(number, fixed)
        # The last digits of a Gaussian process depend on the number of threads.
        with threadpool_limits(1) if self.search.sampler == "gp" else nullcontext():
            trial = study.ask(distributions)
        trial.set_user_attr("number", number)
        return trial

    def _avoid_failed(self, number: int, fixed: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return ``fixed``, or after a failure a whole proposal that equals no failed trial.

        A Gaussian process may propose the same point for ever. Equal trials run only once, so all later ones would
        fail, too. TPE and random search draw with another seed per trial.
        """
        if self.target is None and self.search.sampler != "gp":
            return dict(fixed)
        before = (self._trials[other] for other in range(self._told))
        failed = [self._read_params(record) for record in before if record["state"] == "failed"]
        if not failed:
            return dict(fixed)
        copy = optuna.create_study(direction=self._direction)
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
        low, high = proposal_bounds(self.search, self._trials.values(), self.target, number)
        value = float(params.get(strength, low))  # a trial of an earlier study file may lie outside of the range
        return {strength: FloatDistribution(min(low, value), max(high, value), log=True)}

    def _make_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        if self.target is not None:
            return LossMatchSampler(
                self.search.strength_name,
                self.target.loss,
                noise=self.target.noise,
                anchor=self.target.anchor,
                direction=self.search.matching.direction if self.search.matching else None,
                parallel=math.ceil(self.search.parallel / len(self.search.combinations())),
                seed=self.seed,
                among=self.search.fixed_params(number),
            )
        seed = seeding.number(self.seed, "search", self.arm, number) % 2**32
        startup = max(4, self.search.trials // 3)
        if self.search.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if self.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return KnownSpaceSampler(self._distributions, seed=seed, n_startup_trials=startup)


class KnownSpaceSampler(optuna.samplers.TPESampler):
    """TPE with the search space that is known. Each new sampler would find it again in all trials of the study."""

    def __init__(self, space: Mapping[str, BaseDistribution], *, seed: int, n_startup_trials: int):
        super().__init__(seed=seed, n_startup_trials=n_startup_trials)
        self._known = {name: span for name, span in sorted(space.items()) if not span.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._known


def to_distribution(span: Range) -> BaseDistribution:
    """Return a searched range as Optuna's distribution."""
    if span.choice is not None:
        return CategoricalDistribution(span.choice)
    whole = span.log_int or span.int
    if whole is not None:
        return IntDistribution(*whole, log=span.is_logarithmic, step=int(span.step or 1))
    assert span.bounds is not None
    return FloatDistribution(*span.bounds, log=span.is_logarithmic, step=span.step)


def _shift(value: Scalar, distribution: BaseDistribution, share: float) -> Scalar:
    """Move a number by a share of its distance to the farther end of its range, but by a step at least.

    Leave choices as they are.
    """
    if not isinstance(distribution, FloatDistribution | IntDistribution) or isinstance(value, str):
        return value
    if distribution.step and not distribution.log:
        farther = distribution.low if value > (distribution.low + distribution.high) / 2 else distribution.high
        steps = math.ceil(share * abs(farther - value) / distribution.step)
        return value + math.copysign(1, farther - value) * steps * distribution.step
    low, high, position = distribution.low, distribution.high, float(value)
    if distribution.log:
        low, high, position = math.log(low), math.log(high), math.log(position)
    position += share * ((low if position > (low + high) / 2 else high) - position)
    return math.exp(position) if distribution.log else position
