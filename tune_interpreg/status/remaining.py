"""Estimate how long the rest of a study takes, from what its own items took."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.graph import State
from tune_interpreg.status.facts import ArmStatus, DriverStatus, RunningJob
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import StageName


def estimate_remaining(
    current: Current, arms: Sequence[ArmStatus], running: Sequence[RunningJob], driver: DriverStatus
) -> tuple[float | None, dict[StageName, int]]:
    """Return the seconds until the rest is done, and the parts left per stage for stages without a time so far.

    The rest is what runs and what can still run. A part costs the mean of its arm and stage, else of its stage; a
    running job, and a model with some of its judgments, costs what is left of that. The sum is divided by the pace so
    far: seconds of work per second, of all workers together.

    Returns:
        seconds: None if nothing is left, or no stage that is left has a time.
        untimed: stage → parts that ``seconds`` leaves out.
    """
    records = [record for record in current.counting_records() if record["seconds"]]
    times: defaultdict[tuple[str | None, StageName], list[float]] = defaultdict(list)
    for arm in current.study.arms:
        for stage, seconds_of_parts in current.seconds_of_parts(arm).items():
            times[arm, stage] += seconds_of_parts
            times[None, stage] += seconds_of_parts  # all arms

    def mean(arm: str, stage: StageName) -> float | None:
        return statistics.fmean(seconds) if (seconds := times[arm, stage] or times[None, stage]) else None

    final = _best_final_state(current.study, current.state)
    lengths, untimed = list[float](), Counter[StageName]()
    for status in arms:
        for now, end in zip(status.stages, graph.stages_of(current.study, final, status.name), strict=True):
            parts, seconds = end.settled - now.settled, mean(status.name, now.name)
            if parts and seconds is None:
                untimed[now.name] += parts
            elif parts and seconds is not None:
                lengths.append(parts * seconds)
    if not lengths:
        return None, dict(untimed)
    done = sum(min(job.seconds, len(job.seeds) * (mean(job.arm, job.stage) or 0.0)) for job in running)
    for arm, judgments in current.state.judgments.items():
        usual = mean(arm, "judgments") or 0.0
        begun = current.seconds_of_judgments(arm).items()
        done += sum(min(seconds_of_model, usual) for seed, seconds_of_model in begun if seed not in judgments.settled)
    return round(max(0.0, sum(lengths) - done) / _pace(records, running, driver), 1), dict(untimed)


def _best_final_state(study: Study, state: State) -> State:
    """Return the state at the end if nothing more is lost."""
    state = deepcopy(state)
    for stage in state.all_stages():
        stage.done |= stage.running
        stage.running.clear()
    while tasks := list(graph.ready_tasks(study, state)):
        for task in tasks:
            graph.finish(study, state, task)
    return state


def _pace(records: Sequence[Record], running: Sequence[RunningJob], driver: DriverStatus) -> float:
    """Return the seconds of work per second since the last run's first item; before it ends, the running jobs."""
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
    return max(0.1, (work + sum(min(job.seconds, elapsed) for job in running)) / elapsed)
