"""What a search came to, as the store keeps it, and the best trial of one that maximizes."""

from __future__ import annotations

from collections.abc import Sequence

from tune_interpreg.search import pareto
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Frozen, Param
from tune_interpreg.study.items import digest
from tune_interpreg.study.space import Search


class Choice(Frozen):
    """The outcome of a search.

    params: what was searched, as the repeats use it. trials: names what it rests on (see ``basis``).
    found: these trials were enough for a match, however many more it may have.
    front: the numbers of the trials on the Pareto front, where several metrics were maximized.
    parameter: the strength that was matched. target, low, high, expected_residual, feasible, reason: of the match (see
    ``matching.Match``). tolerance: how far off a loss may be and still match.
    """

    params: dict[str, Param]
    trials: str
    found: bool = False
    front: tuple[int, ...] = ()
    parameter: str | None = None
    target: float | None = None
    tolerance: float | None = None
    low: float | None = None
    high: float | None = None
    expected_residual: float | None = None
    feasible: bool = True
    reason: str | None = None


def basis(search: Search, records: Sequence[Record], reference: str | None) -> str:
    """Names what a choice rests on: the goal, the settled trials and, for a match, the reference's recipe.

    Not the reference's seeds: one more of them moves the loss to match within its noise, and undoes no choice.
    """
    settings = {"space", "grid", "maximize", "pick", "loss", "anchor", "tolerance"}
    goal = search.model_dump(mode="json", include=settings, exclude_defaults=True)
    return digest([goal, reference, [[record["number"], record["key"], record["state"]] for record in records]])


def best(search: Search, done: Sequence[Record]) -> Record | None:
    """Of the trials that are done, the one whose parameters the repeats use; None where none has all metrics.

    The best validation metric, the earlier trial on a tie; of several metrics the point of the front that is picked.
    """
    if search.pick:
        return pareto.pick(search, done)
    (metric,) = search.goals
    return max(done, key=lambda record: (ledger.mean(record, metric) or 0.0, -record["number"]), default=None)
