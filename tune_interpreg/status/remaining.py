"""About how long the rest of a study takes, from what its own items took."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tune_interpreg.items import Role
from tune_interpreg.status.facts import Arm, Driver, UnderWay
from tune_interpreg.status.standing import Standing
from tune_interpreg.store import Record

Means = dict[tuple[str | None, Role], float]


def left(
    standing: Standing, arms: Sequence[Arm], under_way: Sequence[UnderWay], driver: Driver, now: datetime | None = None
) -> tuple[float | None, dict[Role, int]]:
    """Seconds until the rest is done, and by role how many parts are left out of it: none of that role has been timed.

    A part is taken to need the mean of its arm's parts of that role, else of all arms'; an item under way, what is left
    of that. Their sum goes on at the pace seen so far: seconds of work a second, of all workers together.

    None where nothing is left, or nothing of what is left is known. now: in UTC.
    """
    records, means = standing.all(), _means(standing.all())
    untimed: Counter[Role] = Counter()
    needed: list[float] = []
    for name, stage in ((arm.name, stage) for arm in arms for stage in arm.stages):
        mean, parts = _mean(means, name, stage.role), max(0, stage.total - stage.settled)
        if mean is None:
            untimed.update({stage.role: parts} if parts else {})
        elif parts:
            needed.append(parts * mean)
    begun = sum(min(one.seconds, len(one.seeds) * (_mean(means, one.arm, one.role) or 0.0)) for one in under_way)
    pace = _pace(records, under_way, driver, now or datetime.now(UTC))
    return round(max(0.0, sum(needed) - begun) / pace, 1) if needed else None, dict(untimed)


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
