"""The parameters that a search chooses for the repeats: of its best trial, or the strength that matches a metric.

A search that matches a metric estimates one strength per combination of its other parameters, which are choices. Trials
take the combinations in turn (``Search.fixed_params``). A search without other parameters has one combination, the
empty one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from tune_interpreg.search.bounds import Bounds
from tune_interpreg.search.target import Target
from tune_interpreg.store.files import Damaged
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.fields import Frozen, Scalar
from tune_interpreg.study.metric_names import VAL_ADV_ACCURACY
from tune_interpreg.study.recipe import digest
from tune_interpreg.study.setting import read_params
from tune_interpreg.study.space import Search, Searched

if TYPE_CHECKING:
    from tune_interpreg.search.matching.estimate import Match

#: First trials of each combination. They are spread over the range before any result is used.
STARTUP = 4


Reference = str | Mapping[str, str] | None


class Choice(Frozen):
    """The outcome of a search, as the store holds it."""

    params: dict[str, Searched] = Field(description="the searched parameters, as the repeats use them")
    trials: str = Field(description="digest of what the choice depends on (``digest_trials``)")
    found: bool = Field(False, description="a match that needs no further trials")
    least: dict[str, float] = Field(default_factory=dict, description="the least values that ``where`` asks for")
    parameter: str | None = Field(None, description="the matched strength; this and the following: of a match")
    target: float | None = Field(None, description="the value to match")
    tolerance: float | None = Field(None, description="largest difference that matches")
    low: float | None = Field(None, description="low end of the strength's 90% interval")
    high: float | None = Field(None, description="high end of the strength's 90% interval")
    expected_residual: float | None = Field(None, description="expected value − target at the chosen strength")
    feasible: bool = Field(True, description="whether the target lies within reach, or a trial satisfies ``where``")
    reason: str | None = Field(None, description="why not")


def choose(
    search: Search,
    records: Sequence[Record],
    target: Target | None = None,
    bounds: Bounds | None = None,
    reference: Reference = None,
) -> Choice | None:
    """Return the choice of a search, or None if no trial is done.

    A search that maximizes chooses its best trial. A match is the estimated root, not the trial with the smallest
    residual.

    Args:
        records: the settled trials.
        target: the metric to match, for a search that matches one.
        bounds: the least values of other metrics, for a search with ``where``.
        reference: for ``digest_trials``.
    """
    trials = digest_trials(search, records, reference)
    done = [record for record in records if record["state"] == "done"]
    if target is not None:
        return _choose_match(search, records, target, trials) if done else None
    bounds = bounds or Bounds()
    best = best_trial(search, done, bounds)
    if best is None:
        return None
    reason = bounds.explain_violation(best["number"], best["metrics"])
    return Choice(
        params=read_params(best["recipe"], search.ranges),
        trials=trials,
        least=dict(bounds.least),
        feasible=reason is None,
        reason=reason,
    )


def digest_trials(search: Search, records: Sequence[Record], reference: Reference) -> str:
    """Return the digest of what a choice depends on: the goal, the settled trials as judged, the references' recipes.

    The references' seeds are left out: another seed moves the value to match, or a bound, within its noise only.

    reference: key of the matched arm's recipe, or of those behind ``where`` by metric (``Current.reference_key``).
    """
    settings = {"space", "grid", "maximize", "where", "match", "loss", "anchor", "tolerance"}
    goal = search.model_dump(mode="json", include=settings, exclude_defaults=True)
    trials = [[record["number"], record["key"], record["state"], record["judged"]] for record in records]
    return digest([goal, reference, trials])


def read_choice(store: Store, arm: str) -> Choice | None:
    """Return the choice of the arm's search in the store, None before it ends. Raise ``Damaged`` if it is unusable."""
    content = store.read_choice(arm)
    try:
        if content:
            content.pop("front", None)  # of searches for a Pareto front, in stores of 0.1.0
        return Choice.model_validate(content) if content else None
    except ValidationError:
        raise Damaged(store.choice_file(arm), "is no choice of this version") from None


# ------------------------------------------------------------------ searches that maximize
def read_metrics(search: Search, record: Record) -> tuple[float, ...]:
    """Return the metric to maximize, then those of ``where``; () if the record lacks one, or for a match."""
    names = [search.maximize, *search.where] if search.maximize else []
    values = tuple(float(record["metrics"][name]) for name in names if name in record["metrics"])
    return values if len(values) == len(names) else ()


def best_trial(search: Search, done: Sequence[Record], bounds: Bounds) -> Record | None:
    """Return the best of the done trials that satisfy the bounds, the earlier one on a tie.

    If none does, return the one with the least violation. None if no trial has all metrics.
    """
    ranks = {}
    for record in done:
        if values := read_metrics(search, record):
            ranks[record["number"]] = (-bounds.violation(record["metrics"]), values[0], -record["number"])
    return max((record for record in done if record["number"] in ranks), key=lambda r: ranks[r["number"]], default=None)


# ------------------------------------------------------------------- searches that match
def may_stop_early(search: Search, records: Sequence[Record], target: Target) -> bool:
    """Return whether a match needs no further trials, in any combination."""
    return all(combination.is_settled() for combination in _combinations(search, records, target))


def proposal_bounds(search: Search, records: Iterable[Record], target: Target, number: int) -> tuple[float, float]:
    """Return the range for the strength of trial ``number``, from the results that its proposal knows."""
    before = [record for record in records if record["number"] < search.known_trials(number)]
    return _combinations(search, before, target)[number % len(search.combinations())].bounds


@dataclass(frozen=True)
class Combination:
    """One combination of choices in a search that matches a metric.

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
        return next(span.log_uniform for span in self.search.ranges.values() if span.log_uniform)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The range to search: wider than the file's if all of the first trials lie on one side of the target."""
        if len(self.records) < STARTUP:
            return self.file_bounds
        strengths, residuals = self._observations(self.records[:STARTUP])
        noise, anchor = self.target.noise, self.target.anchor_residual
        from tune_interpreg.search.matching.signs import widen  # loads numpy, which `status` does without

        settings: dict[str, Any] = {"noise": noise, "anchor_residual": anchor, "direction": self.direction}
        return widen(self.file_bounds, strengths, residuals, **settings) or self.file_bounds

    @cached_property
    def match(self) -> Match | None:
        """The estimated root within the tried range; None if no trial has a residual."""
        strengths, residuals = self._observations(self.records)
        if not strengths:
            return None
        from tune_interpreg.search.matching.estimate import estimate  # loads numpy, likewise

        return estimate(
            strengths,
            residuals,
            bounds=self.bounds if self._count_beyond() else self.file_bounds,
            noise=self.target.noise,
            target=self.target.loss,
            anchor_residual=self.target.anchor_residual,
            direction=self.direction,
        )

    @property
    def direction(self) -> Literal["rising", "falling"] | None:
        """The direction of the metric in the study file."""
        return self.search.matching.direction if self.search.matching else None

    @property
    def tolerance(self) -> float:
        """The largest difference from the target that still matches."""
        return self.search.tolerance or self.target.error

    def is_settled(self) -> bool:
        """Return whether this combination needs no further trials: it matches, or nothing can match.

        Nothing can match if two trials beyond the file's range miss the target too, or if the range was not widened
        and ``2 * STARTUP`` trials miss it.
        """
        if self.match is None or len(self.records) < STARTUP:
            return False
        if self.match.feasible:
            return self.match.is_within(self.tolerance)
        return self._count_beyond() >= 2 or (self.bounds == self.file_bounds and len(self.records) >= 2 * STARTUP)

    def adv_accuracy(self, strength: float) -> float:
        """Return the validation adversarial accuracy of the trial nearest to ``strength`` in log λ; −1 if unknown."""
        pairs = [(self._strength(record), record["metrics"].get(VAL_ADV_ACCURACY)) for record in self.records]
        attacked = [(abs(math.log(tried / strength)), accuracy) for tried, accuracy in pairs if accuracy is not None]
        return min(attacked, key=lambda pair: pair[0], default=(0.0, -1.0))[1]

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
        return float(read_params(record["recipe"], [self.search.strength_name])[self.search.strength_name])


def _combinations(search: Search, records: Sequence[Record], target: Target) -> list[Combination]:
    choices = search.combinations()
    groups: list[list[Record]] = [[] for _ in choices]
    for record in sorted(records, key=lambda record: record["number"]):
        groups[record["number"] % len(choices)].append(record)
    return [Combination(search, target, fixed, group) for fixed, group in zip(choices, groups, strict=True)]


def _choose_match(search: Search, records: Sequence[Record], target: Target, trials: str) -> Choice | None:
    """Choose the combination with the best adversarial accuracy, or the nearest to the target if none matches."""
    combinations = _combinations(search, records, target)
    matches = [(combination, combination.match) for combination in combinations if combination.match]
    if not matches:
        return None
    feasible = [(combination, match) for combination, match in matches if match.feasible]
    if feasible:
        combination, match = max(feasible, key=lambda pair: pair[0].adv_accuracy(pair[1].lambda_hat))
    else:
        combination, match = min(matches, key=lambda pair: abs(pair[1].expected_residual))
    return Choice(
        params={search.strength_name: match.lambda_hat, **combination.fixed},
        trials=trials,
        found=len(records) < search.trials or all(combination.is_settled() for combination in combinations),
        parameter=search.strength_name,
        target=target.loss,
        tolerance=combination.tolerance,
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
        feasible=match.feasible,
        reason=match.reason,
    )
