"""Estimate how long the rest of a study takes, from what its own items took."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.graph import State
from tune_interpreg.status.facts import ArmStatus, DriverStatus, RunningItem
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Role

#: Mean seconds per part, by arm and role, and by role over all arms (None).
Means = dict[tuple[str | None, Role], float]


def estimate_remaining(
    current: Current,
    arms: Sequence[ArmStatus],
    running: Sequence[RunningItem],
    driver: DriverStatus,
    now: datetime | None = None,
) -> tuple[float | None, dict[Role, int]]:
    """Return the seconds until the rest is done, and the parts left per role for roles without a time so far.

    The rest is what runs and what can still run. A part costs the mean of its arm and role, else of its role; a running
    item costs what is left of that. The sum is divided by the pace so far: seconds of work per second, of all workers
    together.

    Args:
        now: in UTC; the present by default.

    Returns:
        seconds: None if nothing is left, or no role that is left has a time.
        untimed: role → parts that ``seconds`` leaves out.
    """
    records = current.all_records()
    means = _mean_seconds(records)
    untimed: Counter[Role] = Counter()
    work, is_known = 0.0, False
    for (name, role), parts in _count_remaining(current, arms).items():
        mean = means.get((name, role), means.get((None, role)))
        if parts and mean is None:
            untimed[role] += parts
        elif parts and mean is not None:
            work, is_known = work + parts * mean, True
    for item in running:
        mean = means.get((item.arm, item.role), means.get((None, item.role), 0.0))
        work -= min(item.seconds, len(item.seeds) * mean)
    pace = _pace(records, running, driver, now or datetime.now(UTC))
    return round(max(0.0, work) / pace, 1) if is_known else None, dict(untimed)


def _count_remaining(current: Current, arms: Sequence[ArmStatus]) -> dict[tuple[str, Role], int]:
    """Return how many parts of each arm and role run or can still run."""
    final = _best_final_state(current.study, current.state)
    counts = {}
    for arm in arms:
        for now, end in zip(arm.stages, graph.stages_of(current.study, final, arm.name), strict=True):
            counts[arm.name, now.role] = end.settled - now.settled
    return counts


def _best_final_state(study: Study, state: State) -> State:
    """Return the state at the end if nothing more is lost."""
    state = deepcopy(state)
    for stages_by_name in (state.searches, state.repeats, state.checks, state.maps):
        for stage in stages_by_name.values():
            stage.done |= stage.running
            stage.running.clear()
    while tasks := list(graph.ready_tasks(study, state)):
        for task in tasks:
            state.stage_of(task).done.update(task.parts)
    return state


def _mean_seconds(records: Sequence[Record]) -> Means:
    seconds = defaultdict(list)
    for record in records:
        if record["seconds"]:
            per_part = record["seconds"] / max(1, len(record["seeds"]))
            seconds[record["arm"], record["role"]].append(per_part)
            seconds[None, record["role"]].append(per_part)
    return {key: statistics.fmean(values) for key, values in seconds.items()}


def _pace(records: Sequence[Record], running: Sequence[RunningItem], driver: DriverStatus, now: datetime) -> float:
    """Return the seconds of work per second since the last run's first item; before it ends, the running items."""
    since = datetime.fromisoformat(driver.since) if driver.since else now
    ends = [(record["seconds"], datetime.fromisoformat(record["finished"])) for record in records if record["seconds"]]
    ends = [(seconds, end) for seconds, end in ends if end > since]
    if not ends:
        return max(1, len(running))
    start = max(since, min(end - timedelta(seconds=seconds) for seconds, end in ends))
    until = now if driver.alive else max(end for _, end in ends)
    elapsed = max(1.0, (until - start).total_seconds())
    # An item may contain work of an earlier run: count at most the time since the start.
    work = sum(min(seconds, (end - start).total_seconds()) for seconds, end in ends)
    return max(0.1, (work + sum(min(item.seconds, elapsed) for item in running)) / elapsed)
