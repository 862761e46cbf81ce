"""One Optuna study an arm: ask, tell, prune.

The ledger is the truth. The study in the journal is a view of it for optuna-dashboard, made anew wherever
the two differ, and a proposal depends on nothing but the seed, the arm, the trial's number and what the
ledger and the trials under way say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune_interpreg import seeding
from tune_interpreg.search import choosing as matches
from tune_interpreg.search.matching import sampler as matching
from tune_interpreg.search.target import Target
from tune_interpreg.search.tpe import Journal, Known, Shown, TPESampler
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Damaged, Record
from tune_interpreg.study.fields import Param
from tune_interpreg.study.space import Range, Search

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {
    "done": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "diverged": TrialState.FAIL,
}


def journal(path: Path) -> JournalStorage:
    """The study's Optuna storage, read whole; only the driver writes to it. Raises ``Damaged`` where Optuna cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_last_line(path)
        storage = JournalStorage(Journal(path))
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id)
    except OSError:
        raise
    except Exception as error:  # whatever its own reader trips over
        raise Damaged(path, f"is damaged: Optuna cannot read it ({error!r})") from None
    return storage


def _check_last_line(path: Path) -> None:
    """Optuna passes over a last line that was not written whole, and trips over it once another follows."""
    content = path.read_bytes() if path.exists() else b""
    if content:
        json.loads(content.splitlines(keepends=True)[-1])
        if not content.endswith(b"\n"):
            raise ValueError("its last line is not whole")


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
        self._reported: dict[int, set[int]] = {}  # epochs of live trials
        self._some_lost = False  # whether a settled trial has no value
        self._failed: list[Mapping[str, Param]] = []  # what failed trials had
        self.earlier: dict[int, list[dict[str, Param]]] = {}  # what the journal says was proposed before, by number
        self._study = self._opened(storage, records)
        self._known = self._columns()

    def propose(self, number: int, params: Mapping[str, Param] | None = None) -> dict[str, Param]:
        """The searched parameters of trial ``number``; ``params`` repeats a proposal that was begun before."""
        if number in self._live:  # it was given back
            return dict(self._live[number].params)
        fixed = self.search.fixed(number) if params is None else {name: params[name] for name in self.search.ranges}
        if self._some_lost and not self._is_whole(fixed):
            fixed = self._around_lost(number, fixed)
        # Of a whole proposal a sampler would think for nothing.
        self._study.sampler = optuna.samplers.RandomSampler() if self._is_whole(fixed) else self._sampler(number)
        if fixed:
            self._study.enqueue_trial(fixed)
        trial = self._study.ask(self._distributions | self._widened(number, fixed))
        trial.set_user_attr("number", number)
        self._live[number] = trial
        if self._known:
            self._known.start(trial.params)
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
        for epoch in sorted(frozen.intermediate_values.keys() - self._reported.pop(record["number"], set())):
            trial.report(frozen.intermediate_values[epoch], epoch)
        complete = frozen.state == TrialState.COMPLETE
        self._study.tell(trial, frozen.values if complete else None, state=frozen.state)
        if self._known:
            self._known.settle(trial.number, frozen)

    def should_prune(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether the arm's pruner gives up on a trial at ``epoch``; of each trial the epochs come in order."""
        if self.search.pruner == "none" or not (known := [goal for goal in self.search.goals if goal in metrics]):
            return False
        (metric,) = known
        trial, reported = self._live[number], self._reported.setdefault(number, set())
        if epoch in reported:  # told again by a worker that went on after an interruption
            return False
        trial.report(metrics[metric], epoch)
        reported.add(epoch)
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
            for trial in study.get_trials(deepcopy=False):
                self.earlier.setdefault(trial.user_attrs.get("number", -1), []).append(trial.params)
            if study.directions == directions and known == [_told(trial) for trial in frozen]:
                return study
            optuna.delete_study(study_name=self.arm, storage=storage)
        study = optuna.create_study(study_name=self.arm, storage=storage, directions=directions, pruner=pruner)
        study.add_trials(frozen)
        return study

    def _columns(self) -> Known | None:
        """The study's trials for TPE, where it maximizes one metric."""
        by_tpe = self.search.sampler == "tpe" and len(self.search.goals) == 1 and not self.search.grid
        return Known(self._distributions, self._study.get_trials(deepcopy=False)) if by_tpe else None

    def _frozen(self, record: Record) -> FrozenTrial:
        state = _STATES[record["state"]]
        attributes: dict[str, Any] = {"number": record["number"], "key": record["key"], "state": record["state"]}
        values = self._values(record, attributes)
        if values is None and state == TrialState.COMPLETE:
            state = TrialState.FAIL
        self._some_lost |= state == TrialState.FAIL
        params = {name: record["recipe"]["params"][name] for name in self.search.ranges}
        if record["state"] == "failed":
            self._failed.append(params)
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
    def _is_whole(self, fixed: Mapping[str, Param]) -> bool:
        return fixed.keys() >= self.search.ranges.keys()

    def _around_lost(self, number: int, fixed: Mapping[str, Param]) -> dict[str, Param]:
        """The whole proposal, of a sampler that is asked in a copy of the study in which diverged trials have values.

        Equal proposals run once: one that failed already is moved a hair, or all that follow might be lost with it.
        """
        trials = [] if self._known else self._study.get_trials(deepcopy=False)
        storage = Shown(trials if self.target else _valued(trials))
        copy = optuna.create_study(storage=storage, directions=self._study.directions, sampler=self._sampler(number))
        if fixed:
            copy.enqueue_trial(dict(fixed))
        asked = copy.ask(self._distributions | self._widened(number, fixed))
        if asked.params not in self._failed:
            return dict(asked.params)
        share = 0.02 * np.random.default_rng(seeding.number(self.seed, "beside", self.arm, number)).random()
        return {name: _moved(value, asked.distributions[name], share) for name, value in asked.params.items()}

    def _widened(self, number: int, params: Mapping[str, Param]) -> dict[str, BaseDistribution]:
        """The distribution of a matched strength, where its range is no longer the file's own."""
        if self.target is None:
            return {}
        strength = self.search.strength
        low, high = matches.bounds(self.search, self._records, self.target, number)
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
                among=self.search.fixed(number),
            )
        startup = max(4, self.search.trials // 3)
        if self.search.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if self.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self._known:
            return TPESampler(self._known, startup=startup, seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


def distribution(span: Range) -> BaseDistribution:
    """Optuna's form of a searched range."""
    if span.choice is not None:
        return CategoricalDistribution(span.choice)
    assert span.bounds is not None
    return FloatDistribution(*span.bounds, log=span.log_uniform is not None)


def _valued(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials of a search that maximizes, the diverged ones with the worst value of any that is done, if one is.

    Samplers pass over a trial without a value: TPE goes on among the diverged, and a Gaussian process, which has
    learnt nothing, proposes one and the same point for ever. The worst that was seen leaves ranks, and the scale of a
    model, as they are; 0 would not.
    """
    done = [trial.values for trial in trials if trial.state == TrialState.COMPLETE]
    diverged = [trial for trial in trials if trial.user_attrs.get("state") == "diverged"]
    if not done:
        return list(trials)
    worst = [min(values) for values in zip(*done, strict=True)]
    valued = [trial for trial in trials if trial.user_attrs.get("state") != "diverged"]
    for number, trial in enumerate(diverged, start=len(trials)):
        made = optuna.create_trial(values=worst, params=trial.params, distributions=trial.distributions)
        made.number = number  # they come last: of two equal trials a sampler takes the earlier one for the better
        valued.append(made)
    return valued


def _moved(value: Param, within: BaseDistribution, share: float) -> Param:
    """A number, moved by a share of its way to the farther end of its range; anything else as it is."""
    if not isinstance(within, FloatDistribution) or isinstance(value, str):
        return value
    low, high = (math.log(end) if within.log else end for end in (within.low, within.high))
    at = math.log(value) if within.log else float(value)
    at += share * ((low if at > (low + high) / 2 else high) - at)
    return math.exp(at) if within.log else at


def _told(trial: FrozenTrial) -> tuple[Any, ...]:
    attributes = [trial.user_attrs.get(name) for name in ("key", "number", "state", "residual")]
    return *attributes, trial.state, trial.values, trial.params, trial.distributions
