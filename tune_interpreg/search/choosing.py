"""The matches of one search: a strength for each combination of the choices beside it.

A search without such choices has one combination, the empty one. Trials take the combinations in turn, so a trial's
number tells its own (``Search.fixed``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tune_interpreg.search.matching import sampler as matching
from tune_interpreg.search.matching import signs
from tune_interpreg.search.matching.sampler import Match
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.space import Param, Range, Search

#: The first trials of each combination, spread over the range before any of them is looked at.
STARTUP = 4


def proposes(search: Search, searched: Mapping[str, Param], number: int | None = None) -> bool:
    """Whether a search could have proposed these parameters in trial ``number``, or chosen them where that is None."""
    if number is not None and any(searched[name] != value for name, value in search.fixed(number).items()):
        return False
    return all(
        span.holds(searched[name]) or (bool(search.match_loss_of) and _is_beyond(span, searched[name]))
        for name, span in search.ranges.items()
    )


def _is_beyond(span: Range, value: Param) -> bool:
    """Whether a widened range holds a strength that its own does not."""
    if span.log_uniform is None or isinstance(value, str):
        return False
    low, high = signs.reach(span.log_uniform)
    return low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@dataclass(frozen=True)
class Combination:
    """One combination of choices, and what its settled trials say.

    fixed: the choices. records: of these trials, by number.
    """

    search: Search
    target: Target
    fixed: dict[str, Param]
    records: Sequence[Record]

    @property
    def own(self) -> tuple[float, float]:
        """The range in the study file."""
        bounds = self.search.ranges[self.search.strength].bounds
        assert bounds is not None
        return bounds

    @property
    def bounds(self) -> tuple[float, float]:
        """The range searched: the file's, or a wider one where its first trials all lie on one side of the target."""
        first = self.records[:STARTUP]
        if len(first) < STARTUP:
            return self.own
        anchor = self._anchor_residual
        wider = matching.widened(self.own, *self._known(first), noise=self.target.noise, anchor_residual=anchor)
        return wider or self.own

    def match(self) -> Match | None:
        """The estimated root within the range that was tried; None before any trial has a residual."""
        lambdas, residuals = self._known(self.records)
        if not lambdas:
            return None
        return matching.estimate(
            lambdas,
            residuals,
            bounds=self.bounds if self._beyond() else self.own,
            noise=self.target.noise,
            target=self.target.loss,
            anchor_residual=self._anchor_residual,
        )

    def is_found(self) -> bool:
        """Whether further trials are not worth their time: matched within tolerance, or nothing can match.

        Nothing can where two trials beyond the file's range did not reach the target either, or where twice the first
        trials found no reason to look beyond it.
        """
        match = self.match()
        if match is None or len(self.records) < STARTUP:
            return False
        if match.feasible:
            return match.within(tolerance(self.search, self.target))
        return len(self._beyond()) >= 2 or (self.bounds == self.own and len(self.records) >= 2 * STARTUP)

    def adv_accuracy(self, match: Match) -> float:
        """Validation adversarial accuracy of the trial nearest to the match, in log λ; −1 where none was attacked."""
        attacked = [record for record in self.records if ledger.mean(record, "val/adv_accuracy") is not None]
        nearest = min(attacked, key=lambda one: abs(math.log(self._strength(one) / match.lambda_hat)), default=None)
        accuracy = None if nearest is None else ledger.mean(nearest, "val/adv_accuracy")
        return -1.0 if accuracy is None else accuracy

    def _beyond(self) -> list[Record]:
        """The trials beyond the file's own range."""
        low, high = self.own
        return [record for record in self.records if not low <= self._strength(record) <= high]

    def _known(self, records: Sequence[Record]) -> tuple[list[float], list[float]]:
        """Strengths and residuals of the trials that have one."""
        pairs = [(self._strength(record), self.target.residual(record)) for record in records]
        known = [(strength, residual) for strength, residual in pairs if residual is not None]
        return [strength for strength, _ in known], [residual for _, residual in known]

    def _strength(self, record: Record) -> float:
        return float(record["recipe"]["params"][self.search.strength])

    @property
    def _anchor_residual(self) -> float | None:
        return None if self.target.anchor is None else self.target.anchor - self.target.loss


def combinations(search: Search, records: Sequence[Record], target: Target) -> list[Combination]:
    """Each combination of the search with its settled trials."""
    ordered, choices = sorted(records, key=lambda record: record["number"]), search.combinations()
    return [
        Combination(search, target, fixed, [one for one in ordered if one["number"] % len(choices) == index])
        for index, fixed in enumerate(choices)
    ]


def bounds(search: Search, records: Mapping[int, Record], target: Target, number: int) -> tuple[float, float]:
    """The range that trial ``number`` is proposed within, from the settled trials before it; records: by number."""
    own = range(number % len(search.combinations()), number, len(search.combinations()))
    first = islice((records[one] for one in own if one in records), STARTUP)
    return Combination(search, target, search.fixed(number), list(first)).bounds


def is_found(search: Search, records: Sequence[Record], target: Target) -> bool:
    """Whether the search may end before all of its trials have run."""
    return all(one.is_found() for one in combinations(search, records, target))


def best(search: Search, records: Sequence[Record], target: Target) -> tuple[Combination, Match] | None:
    """The combination that the repeats use, and its match; None before any trial has a residual.

    Of the matched combinations the one of the best validation adversarial accuracy, the earlier on a tie; where none
    is matched, the one that comes nearest.
    """
    made = [(one, match) for one in combinations(search, records, target) if (match := one.match())]
    matched = [(one, match) for one, match in made if match.feasible]
    if matched:
        return max(matched, key=lambda pair: pair[0].adv_accuracy(pair[1]))
    return min(made, key=lambda pair: abs(pair[1].expected_residual), default=None)


def tolerance(search: Search, target: Target) -> float:
    """How far off the target a loss may be and still match."""
    return search.tolerance if search.tolerance is not None else target.error
