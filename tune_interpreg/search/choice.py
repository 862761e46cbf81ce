"""The choice of a search, as the store holds it, and the best trial of a search that maximizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field, ValidationError

from tune_interpreg.store import ledger
from tune_interpreg.store.files import Damaged
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.fields import Frozen, Scalar
from tune_interpreg.study.recipe import digest
from tune_interpreg.study.space import Search


class Choice(Frozen):
    """The outcome of a search."""

    params: dict[str, Scalar] = Field(description="the searched parameters, as the repeats use them")
    trials: str = Field(description="digest of what the choice depends on (``digest_trials``)")
    found: bool = Field(False, description="a match that needs no further trials")
    front: tuple[int, ...] = Field((), description="trials on the Pareto front, of several metrics to maximize")
    parameter: str | None = Field(None, description="the matched strength; this and the following: of a match")
    target: float | None = Field(None, description="the loss to match")
    tolerance: float | None = Field(None, description="largest difference of a loss that matches")
    low: float | None = Field(None, description="low end of the strength's 90% interval")
    high: float | None = Field(None, description="high end of the strength's 90% interval")
    expected_residual: float | None = Field(None, description="expected loss − target loss at the chosen strength")
    feasible: bool = Field(True, description="whether the target lies within reach")
    reason: str | None = Field(None, description="why the target is out of reach")


def digest_trials(search: Search, records: Sequence[Record], reference: str | None) -> str:
    """Return the digest of what a choice depends on: the goal, the settled trials, and the reference's recipe.

    The reference's seeds are left out: another seed moves the loss to match within its noise only.
    """
    settings = {"space", "grid", "maximize", "pick", "loss", "anchor", "tolerance"}
    goal = search.model_dump(mode="json", include=settings, exclude_defaults=True)
    return digest([goal, reference, [[record["number"], record["key"], record["state"]] for record in records]])


def load_choice(store: Store, arm: str, say: Callable[[str], object]) -> Choice | None:
    """Return the choice of the arm's search in the store; set a damaged one aside and report it to ``say``."""
    try:
        content = store.read_choice(arm)
        return Choice.model_validate(content) if content else None
    except Damaged as error:
        damaged = error
    except ValidationError:
        damaged = Damaged(store.choice_file(arm), "is no choice of this version")
    say(f"{store.set_aside(damaged)}; {arm}'s search chooses again")
    return None


def best_trial(search: Search, done: Sequence[Record]) -> Record | None:
    """Return the trial with the best metric, the earlier one on a tie; of several metrics, the picked trial.

    Args:
        done: the trials with state "done".

    Returns:
        None if no trial has all metrics.
    """
    if search.pick:
        return pick(search, done)
    (metric,) = search.goals
    return max(done, key=lambda record: (ledger.mean_metric(record, metric) or 0.0, -record["number"]), default=None)


def pareto_front(records: Sequence[Record], metrics: Sequence[str]) -> list[Record]:
    """Return the records that no other record dominates: as good in every metric and better in one."""
    complete = [
        record for record in records if all(ledger.mean_metric(record, metric) is not None for metric in metrics)
    ]
    points = [[_value(record, metric) for metric in metrics] for record in complete]
    return [
        record
        for record, point in zip(complete, points, strict=True)
        if not any(_dominates(other, point) for other in points)
    ]


def pick(search: Search, records: Sequence[Record]) -> Record | None:
    """Return the point of the Pareto front that ``search.pick`` names, the earlier trial on a tie.

    Returns:
        None if no record has all metrics.
    """
    rule = search.pick
    assert rule is not None
    points = pareto_front(records, search.goals)
    if not points:
        return None
    best = {metric: max(_value(point, metric) for point in points) for metric in rule.within}
    allowed = [
        point
        for point in points
        if all(_value(point, metric) >= best[metric] - within for metric, within in rule.within.items())
    ]
    # Several conditions together may exclude every point. Then the deciding metric decides alone.
    return max(allowed or points, key=lambda point: (_value(point, rule.best), -point["number"]))


def _value(record: Record, metric: str) -> float:
    value = ledger.mean_metric(record, metric)
    assert value is not None
    return value


def _dominates(point: Sequence[float], other: Sequence[float]) -> bool:
    return point != other and all(a >= b for a, b in zip(point, other, strict=True))
