"""Choose the parameters that the repeats use: the best trial, or the strength that matches a loss.

A search that matches a loss estimates one strength per combination of its other parameters, which are choices. Trials
take the combinations in turn (``Search.fixed_params``). A search without other parameters has one combination, the
empty one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune_interpreg.search.choice import Choice, best_trial, digest_trials, pareto_front
from tune_interpreg.search.matching.estimate import Match, estimate
from tune_interpreg.search.matching.signs import widen
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.metric_names import VAL_ADV_ACCURACY
from tune_interpreg.study.space import Search

#: First trials of each combination. They are spread over the range before any result is used.
STARTUP = 4


def choose(search: Search, records: Sequence[Record], target: Target | None) -> Choice | None:
    """Return the choice of a search, or None if no trial is done.

    A search that maximizes chooses its best trial. A match is the estimated root, not the trial with the smallest
    residual.

    Args:
        records: the settled trials.
        target: the loss to match, for a search with ``match_loss_of``.
    """
    done = [record for record in records if record["state"] == "done"]
    if target is not None:
        return _choose_match(search, records, target) if done else None
    best = best_trial(search, done) if done else None
    if best is None:
        return None
    front = tuple(record["number"] for record in pareto_front(done, search.goals)) if search.pick else ()
    params = {name: best["recipe"]["params"][name] for name in search.ranges}
    return Choice(params=params, trials=digest_trials(search, records, None), front=front)


def may_stop_early(search: Search, records: Sequence[Record], target: Target) -> bool:
    """Return whether a match needs no further trials, in any combination."""
    return all(combination.is_settled() for combination in _combinations(search, records, target))


def matching_tolerance(search: Search, target: Target) -> float:
    """Return the largest difference from the target loss that still matches."""
    return search.tolerance if search.tolerance is not None else target.error


def proposal_bounds(search: Search, records: Mapping[int, Record], target: Target, number: int) -> tuple[float, float]:
    """Return the range for the strength of trial ``number``, which depends on the settled trials before it.

    Args:
        records: the settled trials by number.
    """
    count = len(search.combinations())
    before = [records[earlier] for earlier in range(number % count, number, count) if earlier in records]
    return Combination(search, target, search.fixed_params(number), before).bounds


@dataclass(frozen=True)
class Combination:
    """One combination of choices in a search that matches a loss.

    Attributes:
        fixed: the choices.
        records: the settled trials of this combination, by number.
    """

    search: Search
    target: Target
    fixed: dict[str, Scalar]
    records: Sequence[Record]

    @property
    def file_bounds(self) -> tuple[float, float]:
        """The strength's range in the study file."""
        bounds = self.search.ranges[self.search.strength_name].bounds
        assert bounds is not None
        return bounds

    @property
    def bounds(self) -> tuple[float, float]:
        """The range to search: wider than the file's if all of the first trials lie on one side of the target."""
        first = self.records[:STARTUP]
        if len(first) < STARTUP:
            return self.file_bounds
        strengths, residuals = self._observations(first)
        noise, anchor = self.target.noise, self.target.anchor_residual
        return widen(self.file_bounds, strengths, residuals, noise=noise, anchor_residual=anchor) or self.file_bounds

    def match(self) -> Match | None:
        """Estimate the root within the tried range; None if no trial has a residual."""
        strengths, residuals = self._observations(self.records)
        if not strengths:
            return None
        return estimate(
            strengths,
            residuals,
            bounds=self.bounds if self._count_beyond() else self.file_bounds,
            noise=self.target.noise,
            target=self.target.loss,
            anchor_residual=self.target.anchor_residual,
        )

    def is_settled(self) -> bool:
        """Return whether this combination needs no further trials: it matches, or nothing can match.

        Nothing can match if two trials beyond the file's range miss the target too, or if the range was not widened
        and ``2 * STARTUP`` trials miss it.
        """
        match = self.match()
        if match is None or len(self.records) < STARTUP:
            return False
        if match.feasible:
            return match.is_within(matching_tolerance(self.search, self.target))
        return self._count_beyond() >= 2 or (self.bounds == self.file_bounds and len(self.records) >= 2 * STARTUP)

    def adv_accuracy(self, match: Match) -> float:
        """Return the validation adversarial accuracy of the trial nearest to the match in log λ; −1 if unknown."""
        attacked = [record for record in self.records if ledger.mean_metric(record, VAL_ADV_ACCURACY) is not None]
        if not attacked:
            return -1.0
        nearest = min(attacked, key=lambda record: abs(math.log(self._strength(record) / match.lambda_hat)))
        return ledger.mean_metric(nearest, VAL_ADV_ACCURACY) or 0.0

    def _count_beyond(self) -> int:
        """Count the trials beyond the file's range."""
        low, high = self.file_bounds
        return sum(not low <= self._strength(record) <= high for record in self.records)

    def _observations(self, records: Sequence[Record]) -> tuple[list[float], list[float]]:
        """Return strengths and residuals of the trials that have a residual."""
        pairs = [(self._strength(record), self.target.residual(record)) for record in records]
        valid = [(strength, residual) for strength, residual in pairs if residual is not None]
        return [strength for strength, _ in valid], [residual for _, residual in valid]

    def _strength(self, record: Record) -> float:
        return float(record["recipe"]["params"][self.search.strength_name])


def _combinations(search: Search, records: Sequence[Record], target: Target) -> list[Combination]:
    choices = search.combinations()
    groups: list[list[Record]] = [[] for _ in choices]
    for record in sorted(records, key=lambda record: record["number"]):
        groups[record["number"] % len(choices)].append(record)
    return [Combination(search, target, fixed, group) for fixed, group in zip(choices, groups, strict=True)]


def _choose_match(search: Search, records: Sequence[Record], target: Target) -> Choice | None:
    """Choose the combination with the best adversarial accuracy, or the nearest to the target if none matches."""
    pairs = [(combination, combination.match()) for combination in _combinations(search, records, target)]
    matches = [(combination, match) for combination, match in pairs if match is not None]
    if not matches:
        return None
    feasible = [(combination, match) for combination, match in matches if match.feasible]
    if feasible:
        combination, match = max(feasible, key=lambda pair: pair[0].adv_accuracy(pair[1]))
    else:
        combination, match = min(matches, key=lambda pair: abs(pair[1].expected_residual))
    return Choice(
        params={search.strength_name: match.lambda_hat, **combination.fixed},
        trials=digest_trials(search, records, target.reference),
        found=may_stop_early(search, records, target),
        parameter=search.strength_name,
        target=target.loss,
        tolerance=matching_tolerance(search, target),
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
        feasible=match.feasible,
        reason=match.reason,
    )
