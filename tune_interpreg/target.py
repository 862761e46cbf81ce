"""The training loss that a search matches, and how far a trial is from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tune_interpreg import ledger
from tune_interpreg.store import Record

#: Of the loss: the noise assumed where the reference has a single seed, or seeds that agree to the last digit.
LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class Target:
    """The training loss to match: its mean over the reference's seeds, and the standard deviation of one seed.

    error: the mean's standard error. reference: names the recipe that the reference's seeds trained.
    metric: which loss it is (``Search.matched``). anchor: this loss at strength 0, where a study has an arm for it.
    """

    loss: float
    noise: float
    error: float
    reference: str
    metric: str = "train/loss"
    anchor: float | None = None

    @classmethod
    def of(cls, references: Sequence[Record], metric: str = "train/loss", anchors: Sequence[Record] = ()) -> Target:
        """From the finished repeats of the reference, and of the arm at strength 0."""
        losses = _losses(references, metric)
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        noise = max(spread, LEAST_NOISE * abs(statistics.fmean(losses)), 1e-12)
        anchor = statistics.fmean(_losses(anchors, metric)) if anchors else None
        error = noise / math.sqrt(len(losses))
        return cls(statistics.fmean(losses), noise, error, references[0]["recipe_key"], metric, anchor)

    def residual(self, record: Record) -> float | None:
        """The trial's training loss minus this one; +inf where it diverged, None where it failed."""
        if record["state"] == "diverged":
            return math.inf
        loss = ledger.mean(record, self.metric)
        return None if loss is None else loss - self.loss


def _losses(records: Sequence[Record], metric: str) -> list[float]:
    return [one[metric] for record in records for one in record["metrics"].values()]
