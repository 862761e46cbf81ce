"""What a search has come to so far: the best trial, or the strength that matches a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tune_interpreg.schedule import graph
from tune_interpreg.search.choice import best_trial
from tune_interpreg.search.target import Target
from tune_interpreg.status.facts import Best, Match, Tried
from tune_interpreg.status.standing import Standing
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.space import Search


def best(standing: Standing, name: str) -> Best | None:
    """The trial that the arm's search would choose now; None before one is done, and of a search that matches."""
    search = standing.study.arms[name].search
    done = [record for record in standing.of(name, "search") if record["state"] == "done"]
    found = best_trial(search, done) if search and search.goals and done else None
    if search is None or found is None:
        return None
    metrics: dict[str, float] = {
        goal: value for goal in search.goals if (value := ledger.mean_metric(found, goal)) is not None
    }
    return Best(found["number"], {one: found["recipe"]["params"][one] for one in search.ranges}, metrics)


def match(standing: Standing, name: str) -> Match | None:
    """The match that the arm's search found, or what is known of it as long as the search goes on."""
    search = standing.study.arms[name].search
    if search is None or search.match_loss_of is None:
        return None
    found = standing.chosen.get(name)
    if found is None or found.target is None:
        return _so_far(standing, name, search, search.match_loss_of)
    return Match(
        reference=search.match_loss_of,
        metric=search.matched_metric,
        parameter=search.strength_name,
        params=found.params,
        target=found.target,
        tolerance=found.tolerance,
        low=found.low,
        high=found.high,
        residual=found.expected_residual,
        feasible=found.feasible,
        reason=found.reason,
    )


def _so_far(standing: Standing, name: str, search: Search, reference: str) -> Match:
    target = _target(standing, search, reference)
    known = Match(reference, search.matched_metric, search.strength_name, target=target.loss if target else None)
    if target is None or search.combinations() != [{}]:  # beside choices there is a match for each of them
        return known
    tried = _tried(standing.of(name, "search"), search, target)
    below = max((one for one in tried if one.residual <= 0), key=lambda one: one.value, default=None)
    above = min((one for one in tried if one.residual > 0), key=lambda one: one.value, default=None)
    return Match(**{**vars(known), "below": below, "above": above})


def _tried(records: Sequence[Record], search: Search, target: Target) -> list[Tried]:
    pairs = [(float(one["recipe"]["params"][search.strength_name]), target.residual(one)) for one in records]
    return [Tried(value, residual) for value, residual in pairs if residual is not None and math.isfinite(residual)]


def _target(standing: Standing, search: Search, reference: str) -> Target | None:
    """The loss to match, once all seeds of its arm have shown it."""
    done = [record for record in standing.of(reference, "repeat") if record["state"] == "done"]
    over = graph.is_arm_over(standing.study, standing.state, reference)
    return Target.from_repeats(done, search.matched_metric) if over and done else None
