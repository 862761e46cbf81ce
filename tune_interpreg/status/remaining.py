"""Estimate how long the rest of a study takes, from what its own items took."""

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


def estimate_remaining(
    current: Current, arms: Sequence[ArmStatus], running: Sequence[RunningItem], driver: DriverStatus
) -> tuple[float | None, dict[Role, int]]:
    """Return the seconds until the rest is done, and the parts left per role for roles without a time so far.

    The rest is what runs and what can still run. A part costs the mean of its arm and role, else of its role; a running
    item costs what is left of that. The sum is divided by the pace so far: seconds of work per second, of all workers
    together.

    Returns:
        seconds: None if nothing is left, or no role that is left has a time.
        untimed: role → parts that ``seconds`` leaves out.
    """
    records = [record for record in current.all_records() if record["seconds"]]
    times: defaultdict[tuple[str | None, Role], list[float]] = defaultdict(list)
    for record in records:
        for arm_name in (record["arm"], None):  # None: all arms
            times[arm_name, record["role"]].append(record["seconds"] / max(1, len(record["seeds"])))

    def mean(arm: str, role: Role) -> float | None:
        return statistics.fmean(seconds) if (seconds := times[arm, role] or times[None, role]) else None

    final = _best_final_state(current.study, current.state)
    lengths, untimed = list[float](), Counter[Role]()
    for arm in arms:
        for now, end in zip(arm.stages, graph.stages_of(current.study, final, arm.name), strict=True):
            parts, seconds = end.settled - now.settled, mean(arm.name, now.role)
            if parts and seconds is None:
                untimed[now.role] += parts
            elif parts and seconds is not None:
                lengths.append(parts * seconds)
    if not lengths:
        return None, dict(untimed)
    done = sum(min(item.seconds, len(item.seeds) * (mean(item.arm, item.role) or 0.0)) for item in running)
    return round(max(0.0, sum(lengths) - done) / _pace(records, running, driver), 1), dict(untimed)


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


def _pace(records: Sequence[Record], running: Sequence[RunningItem], driver: DriverStatus) -> float:
    """Return the seconds of work per second since the last run's first item; before it ends, the running items."""
    now = datetime.now(UTC)
    since = datetime.fromisoformat(driver.since) if driver.since else now
    ends = [(record["seconds"], datetime.fromisoformat(record["finished"])) for record in records]
    ends = [(seconds, end) for seconds, end in ends if end > since]
    if not ends:
        return max(1, len(running))
    start = max(since, min(end - timedelta(seconds=seconds) for seconds, end in ends))
    until = now if driver.alive else max(end for _, end in ends)
    elapsed = max(1.0, (until - start).total_seconds())
    # An item may contain work of an earlier run: count at most the time since the start.
    work = sum(min(seconds, (end - start).total_seconds()) for seconds, end in ends)
    return max(0.1, (work + sum(min(item.seconds, elapsed) for item in running)) / elapsed)
