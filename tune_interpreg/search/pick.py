"""What a search was for: the parameters that the repeats use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import ValidationError

from tune_interpreg.search import choice as outcome
from tune_interpreg.search import choosing as matches
from tune_interpreg.search import pareto
from tune_interpreg.search.choice import Choice, basis
from tune_interpreg.search.target import Target
from tune_interpreg.store.store import Damaged, Record, Store
from tune_interpreg.study.space import Search

__all__ = ["Choice", "basis", "choose", "kept"]


def kept(store: Store, arm: str, say: Callable[[str], object]) -> Choice | None:
    """The choice of the arm's search in the store; one that is damaged is set aside, and the user told."""
    try:
        found = store.choice(arm)
        return Choice.model_validate(found) if found else None
    except Damaged as error:
        damaged = error
    except ValidationError:
        damaged = Damaged(store.choice_file(arm), "is no choice of this version")
    say(f"{store.set_aside(damaged)}; {arm}'s search chooses again")
    return None


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
    best = outcome.best(search, done)
    if best is None:
        return None
    front = tuple(record["number"] for record in pareto.front(done, search.goals)) if search.pick else ()
    params = {name: best["recipe"]["params"][name] for name in search.ranges}
    return Choice(params=params, trials=basis(search, records, None), front=front)


def _matched(search: Search, records: Sequence[Record], target: Target) -> Choice | None:
    best = matches.best(search, records, target)
    if best is None:
        return None
    combination, match = best
    return Choice(
        params={search.strength: match.lambda_hat, **combination.fixed},
        trials=basis(search, records, target.reference),
        found=matches.is_found(search, records, target),
        parameter=search.strength,
        target=target.loss,
        tolerance=matches.tolerance(search, target),
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
        feasible=match.feasible,
        reason=match.reason,
    )
