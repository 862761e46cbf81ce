"""The metric of another arm that a search matches, mostly its training loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.metric_names import TRAIN_LOSS
from tune_interpreg.study.problems import Problem, StudyError

#: Smallest noise, as a share of the loss: for a reference with one seed, or with seeds that agree to the last digit.
LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class Target:
    """The metric to match.

    Attributes:
        loss: mean over the reference's seeds; a loss, or another metric.
        noise: standard deviation of one seed, > 0.
        error: standard error of the mean.
        metric: name of the metric (``Search.matched_metric``).
        anchor: mean of the arm that trains at strength 0, if the search names one.
    """

    loss: float
    noise: float
    error: float
    metric: str = TRAIN_LOSS
    anchor: float | None = None

    @classmethod
    def from_repeats(
        cls, references: Sequence[Record], metric: str = TRAIN_LOSS, anchors: Sequence[Record] = ()
    ) -> Target | None:
        """Compute the target from the finished repeats of the reference and of the anchor; None without a value."""
        losses = _values(references, metric)
        if not losses:
            return None
        loss = statistics.fmean(losses)
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        noise = max(spread, LEAST_NOISE * abs(loss), 1e-12)
        limits = _values(anchors, metric)
        anchor = statistics.fmean(limits) if limits else None
        return cls(loss, noise, noise / math.sqrt(len(losses)), metric, anchor)

    @property
    def anchor_residual(self) -> float | None:
        """Value − target of the anchor, if there is one."""
        return None if self.anchor is None else self.anchor - self.loss

    def residual(self, record: Record) -> float | None:
        """Return the trial's value − target: +inf for a diverged trial, None for a trial without this metric."""
        if record["state"] == "diverged":
            return math.inf
        loss = record["metrics"].get(self.metric)
        return None if loss is None else float(loss) - self.loss


class MissingLoss(StudyError):
    """A training ended without the loss to match. ``place`` is the key of the study file to change."""

    def __init__(self, study: str, place: tuple[str, ...], message: str):
        self.place, self.message = place, message
        super().__init__([Problem(study, ".".join(place), message)])


def check_loss(study: Study, record: Record) -> None:
    """Raise ``MissingLoss`` if a training of a searching arm, a reference or an anchor lacks the loss to match.

    The terms of a method are known only after its first training.
    """
    for name, arm in study.arms.items():
        search = arm.search
        if record["state"] != "done" or search is None or search.matching is None or search.matching.is_judged:
            continue
        if record["arm"] in (name, *search.matching_arms) and search.matched_metric not in record["metrics"]:
            rule = (
                f"{record['arm']} trains without {search.matched_metric}: {record['recipe']['method']} has no such term"
            )
            key, remedy = (("match", "metric"), TRAIN_LOSS) if search.match else (("loss",), "loss: total")
            raise MissingLoss(study.name, ("arms", name, "search", *key), f"{rule}; match {remedy}")


def _values(records: Sequence[Record], metric: str) -> list[float]:
    return [record["metrics"][metric] for record in records if metric in record["metrics"]]
