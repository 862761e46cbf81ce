"""What a search was for: the parameters that the repeats use."""

from __future__ import annotations

from collections.abc import Sequence

from tune_interpreg import ledger, matches, pareto
from tune_interpreg.fields import Frozen, Param
from tune_interpreg.items import digest
from tune_interpreg.space import Search
from tune_interpreg.store import Record
from tune_interpreg.target import Target


class Choice(Frozen):
    """The outcome of a search.

    params: what was searched, as the repeats use it. trials: names what it rests on (see ``basis``).
    front: the numbers of the trials on the Pareto front, where several metrics were maximized.
    parameter: the strength that was matched. target, low, high, expected_residual, feasible, reason: of the match (see
    ``matching.Match``). tolerance: how far off a loss may be and still match.
    """

    params: dict[str, Param]
    trials: str
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


def choose(search: Search, records: Sequence[Record], target: Target | None) -> Choice | None:
    """The parameters for the repeats, or None where no trial was done.

    The best validation metric, the earlier trial on a tie; of several metrics the point of the Pareto front that the
    rule picks; for a match the estimated root, never simply the trial with the smallest residual.
    """
    done = [record for record in records if record["state"] == "done"]
    if not done:
        return None
    if target is not None:
        return _matched(search, records, target)
    best = pareto.pick(search, done) if search.pick else _best(done, search.goals[0])
    if best is None:
        return None
    front = tuple(record["number"] for record in pareto.front(done, search.goals)) if search.pick else ()
    params = {name: best["recipe"]["params"][name] for name in search.ranges}
    return Choice(params=params, trials=basis(search, records, None), front=front)


def _best(done: Sequence[Record], metric: str) -> Record:
    return max(done, key=lambda record: (ledger.mean(record, metric) or 0.0, -record["number"]))


def _matched(search: Search, records: Sequence[Record], target: Target) -> Choice | None:
    best = matches.best(search, records, target)
    if best is None:
        return None
    combination, match = best
    return Choice(
        params={search.strength: match.lambda_hat, **combination.fixed},
        trials=basis(search, records, target.reference),
        parameter=search.strength,
        target=target.loss,
        tolerance=matches.tolerance(search, target),
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
        feasible=match.feasible,
        reason=match.reason,
    )
