"""About how long the rest of a study takes, from what its own items took."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta

from tune_interpreg.schedule import graph, stages
from tune_interpreg.schedule.graph import State
from tune_interpreg.status.facts import Arm, Driver, UnderWay
from tune_interpreg.status.standing import Standing
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Role

Means = dict[tuple[str | None, Role], float]


def left(
    standing: Standing, arms: Sequence[Arm], under_way: Sequence[UnderWay], driver: Driver, now: datetime | None = None
) -> tuple[float | None, dict[Role, int]]:
    """Seconds until the rest is done, and by role how many parts are left out of it: none of that role has been timed.

    The rest is what runs and what can still run; what waits for something that was lost is no part of it.
    A part is taken to need the mean of its arm's parts of that role, else of all arms'; an item under way, what is left
    of that. Their sum goes on at the pace seen so far: seconds of work a second, of all workers together.

    None where nothing is left, or nothing of what is left is known. now: in UTC.
    """
    records, means = standing.all(), _means(standing.all())
    untimed: Counter[Role] = Counter()
    needed: list[float] = []
    for (name, role), parts in _to_come(standing, arms).items():
        mean = _mean(means, name, role)
        if mean is None:
            untimed.update({role: parts} if parts else {})
        elif parts:
            needed.append(parts * mean)
    begun = sum(min(one.seconds, len(one.seeds) * (_mean(means, one.arm, one.role) or 0.0)) for one in under_way)
    pace = _pace(records, under_way, driver, now or datetime.now(UTC))
    return round(max(0.0, sum(needed) - begun) / pace, 1) if needed else None, dict(untimed)


def _to_come(standing: Standing, arms: Sequence[Arm]) -> dict[tuple[str, Role], int]:
    """How many parts of each arm and role run or can still run."""
    study, last, found = standing.study, _at_best(standing.study, standing.state), {}
    for arm in arms:
        for now, then in zip(arm.stages, stages.stages_of(study, last, arm.name), strict=True):
            found[arm.name, now.role] = then.settled - now.settled
    return found


def _at_best(study: Study, state: State) -> State:
    """What the study comes to where nothing more is lost: what runs ends well, and all that then can start."""
    state = deepcopy(state)
    maps = {name: state.maps[key] for name, arm in study.arms.items() if (key := graph.maps_key(arm))}
    tallies = {"search": state.searches, "repeat": state.repeats, "targets": maps, "checks": state.checks}
    for tally in (one for of_role in tallies.values() for one in of_role.values()):
        tally.done |= tally.running
        tally.running.clear()
    while ready := list(graph.ready_tasks(study, state)):
        for task in ready:
            tallies[task.role][task.arm].done.update(task.parts)
    return state


def _means(records: Sequence[Record]) -> Means:
    """Seconds a part, by arm and role, and by role alone; a record of several seeds is as many parts."""
    found = defaultdict(list)
    for record in records:
        if record["seconds"]:
            took = record["seconds"] / max(1, len(record["seeds"]))
            found[record["arm"], record["role"]].append(took)
            found[None, record["role"]].append(took)
    return {key: statistics.fmean(took) for key, took in found.items()}


def _mean(means: Means, arm: str, role: Role) -> float | None:
    return means.get((arm, role), means.get((None, role)))


def _pace(records: Sequence[Record], under_way: Sequence[UnderWay], driver: Driver, now: datetime) -> float:
    """Seconds of work a second, from the first work that the last run has settled; before any, as many as items run."""
    since = datetime.fromisoformat(driver.since) if driver.since else now
    ends = [(record["seconds"], datetime.fromisoformat(record["finished"])) for record in records if record["seconds"]]
    own = [(took, end) for took, end in ends if end > since]
    if not own:
        return max(1, len(under_way))
    began = max(since, min(end - timedelta(seconds=took) for took, end in own))
    until = now if driver.alive else max(end for _, end in own)
    work = [min(took, (end - began).total_seconds()) for took, end in own]  # without what was done in an earlier run
    whole = max(1.0, (until - began).total_seconds())
    return max(0.1, (sum(work) + sum(min(one.seconds, whole) for one in under_way)) / whole)
