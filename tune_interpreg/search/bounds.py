"""The least values of metrics that a search asks of the trial that it chooses (``search.where``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tune_interpreg.store.store import Record
from tune_interpreg.study.space import Search


@dataclass(frozen=True)
class Bounds:
    """The bounds of a search that maximizes.

    Attributes:
        least: metric → the least value that satisfies the search.
    """

    least: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_repeats(cls, search: Search, repeats: Mapping[str, Sequence[Record]]) -> Bounds | None:
        """Compute the bounds from the judged repeats of the arms in ``of``: the mean over seeds − ``within``.

        repeats: arm → its finished repeats. Return None if one of the arms has no value of its metric.
        """
        least: dict[str, float] = {}
        for metric, condition in search.where.items():
            if condition.of is None:
                least[metric] = float(condition.at_least or 0.0)
                continue
            judged = [record for record in repeats[condition.of] if metric in record["metrics"]]
            if not judged:
                return None
            mean = statistics.fmean(record["metrics"][metric] for record in judged)
            least[metric] = mean - float(condition.within or 0.0)
        return cls(least)

    def shortfalls(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metric → least value − value: > 0 where a trial with these metrics violates its bound."""
        return {metric: least - metrics[metric] for metric, least in self.least.items()}

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return the sum of the positive shortfalls: 0 if a trial with these metrics satisfies all bounds."""
        return sum(max(0.0, shortfall) for shortfall in self.shortfalls(metrics).values())

    def explain_violation(self, number: int, metrics: Mapping[str, float]) -> str | None:
        """Return that no trial satisfies the bounds if this trial, the nearest to them, does not; else None."""
        missed = [metric for metric, shortfall in self.shortfalls(metrics).items() if shortfall > 0]
        if not missed:
            return None
        values = ", ".join(f"{metric} {metrics[metric]:.4f} of at least {self.least[metric]:.4f}" for metric in missed)
        return f"no trial satisfies where; the nearest, trial {number}, has {values}"
