"""The training loss that a search matches, and how far a trial is from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.yaml_lines import Problem, StudyError
from tune_interpreg.study.items import Item

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


class NoLoss(StudyError):
    """A training that ended without the loss that is matched; ``place`` and ``message`` are of the arm that matches."""

    def __init__(self, study: str, place: tuple[str, ...], message: str):
        self.place, self.message = place, message
        super().__init__([Problem(study, ".".join(place), message)])


def check_loss(study: Study, item: Item, record: Record) -> None:
    """Raise ``NoLoss`` where the record of a trial, or of a reference or an anchor, lacks the loss to match.

    Which terms a method has, it tells with its first training.
    """
    if record["state"] != "done":
        return
    for name, arm in study.arms.items():
        search = arm.search
        if search is None or search.match_loss_of is None:
            continue
        concerned = {"search": (name,), "repeat": (search.match_loss_of, search.anchor)}.get(item.role, ())
        if item.arm in concerned and any(search.matched not in one for one in record["metrics"].values()):
            rule = f"{item.arm} trains without {search.matched}: {item.recipe.method} has no such term"
            raise NoLoss(study.name, ("arms", name, "search", "loss"), f"{rule}; match loss: total")


def _losses(records: Sequence[Record], metric: str) -> list[float]:
    return [one[metric] for record in records for one in record["metrics"].values()]
