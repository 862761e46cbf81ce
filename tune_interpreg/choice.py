"""What a search was for: the value of a trial, and the parameters that the repeats use."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tune_interpreg import ledger, matching
from tune_interpreg.fields import Frozen, Param
from tune_interpreg.items import digest
from tune_interpreg.space import Search
from tune_interpreg.store import Record

#: Of the loss: the noise assumed where the reference has a single seed, or seeds that agree to the last digit.
LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class Target:
    """The training loss to match: its mean over the reference's seeds, and the standard deviation of one seed.

    reference: names the recipe that the reference's seeds trained. metric: which loss it is (``Search.matched``).
    """

    loss: float
    noise: float
    reference: str
    metric: str = "train/loss"

    @classmethod
    def of(cls, references: Sequence[Record], metric: str = "train/loss") -> Target:
        """From the reference's finished repeats."""
        losses = [one[metric] for record in references for one in record["metrics"].values()]
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        noise = max(spread, LEAST_NOISE * abs(statistics.fmean(losses)), 1e-12)
        return cls(statistics.fmean(losses), noise, references[0]["recipe_key"], metric)


class Choice(Frozen):
    """The outcome of a search.

    params: what was searched, as the repeats use it. trials: names what it rests on (see ``basis``).
    target, low, high, expected_residual, feasible, reason: of a matched loss (see ``matching.Match``).
    """

    params: dict[str, Param]
    trials: str
    target: float | None = None
    low: float | None = None
    high: float | None = None
    expected_residual: float | None = None
    feasible: bool = True
    reason: str | None = None


def residual(record: Record, target: Target) -> float | None:
    """The trial's training loss minus the one to match; +inf where it diverged, None where it failed."""
    if record["state"] == "diverged":
        return math.inf
    loss = ledger.mean(record, target.metric)
    return None if loss is None else loss - target.loss


def basis(search: Search, records: Sequence[Record], reference: str | None) -> str:
    """Names what a choice rests on: the goal, the settled trials and, for a match, the reference's recipe.

    Not the reference's seeds: one more of them moves the loss to match within its noise, and undoes no choice.
    """
    goal = search.model_dump(mode="json", include={"space", "maximize", "loss"}, exclude_defaults=True)
    return digest([goal, reference, [[record["number"], record["key"], record["state"]] for record in records]])


def choose(search: Search, records: Sequence[Record], target: Target | None) -> Choice | None:
    """The parameters for the repeats, or None where no trial was done.

    The best validation metric, the earlier trial on a tie; for a match the estimated root, never simply
    the trial with the smallest residual.
    """
    done = [record for record in records if record["state"] == "done"]
    if not done:
        return None
    if target is not None:
        return _matched(search, records, target)
    assert search.maximize is not None
    metric = search.maximize
    best = max(done, key=lambda record: (ledger.mean(record, metric) or 0.0, -record["number"]))
    params = {name: best["recipe"]["params"][name] for name in search.space}
    return Choice(params=params, trials=basis(search, records, None))


def _matched(search: Search, records: Sequence[Record], target: Target) -> Choice:
    ((parameter, span),) = search.space.items()
    assert span.bounds is not None
    pairs = [(record["recipe"]["params"][parameter], residual(record, target)) for record in records]
    known = [(strength, value) for strength, value in pairs if value is not None]
    match = matching.estimate(
        [strength for strength, _ in known],
        [value for _, value in known],
        bounds=span.bounds,
        noise=target.noise,
    )
    return Choice(
        params={parameter: match.lambda_hat},
        trials=basis(search, records, target.reference),
        target=target.loss,
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
        feasible=match.feasible,
        reason=match.reason,
    )
