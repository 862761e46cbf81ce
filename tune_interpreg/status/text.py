"""The status as text: a tree in a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.display.account import format_duration
from tune_interpreg.display.tree import draw_arms, one_line
from tune_interpreg.status.facts import ArmStatus, DriverStatus, MatchStatus, RunningJob, Status
from tune_interpreg.study.fields import Scalar, format_param

STATES = {
    "finished": "finished",
    "running": "running",
    "unknown": "running, unless its driver has died",
    "stopped": "stopped; the same run command continues it",
    "ended": "ended; what is left cannot run",
}


def lines(status: Status) -> list[str]:
    """Return plain lines: the study's, then each arm's, which begin with its name."""
    lines = header(status)
    for arm in status.arms:
        counts = ", ".join(f"{stage.name} {stage.settled}/{stage.total}" for stage in arm.stages)
        lines += [f"{arm.name}: {line}" for line in (counts, *details(arm))]
    return lines


def tree(status: Status, width: int, height: int | None = None) -> Tree:
    """Return the same as a tree with bars, of at most ``height`` lines if that is given."""
    to_text = Text if height is None else one_line
    title = [to_text(line) for line in header(status)]
    parents = {arm.name: arm.parent for arm in status.arms}
    arms = {arm.name: arm.stages for arm in status.arms}
    leaves = {arm.name: [to_text(line) for line in details(arm)] for arm in status.arms}
    return draw_arms(Group(*title), parents, arms, leaves, width, height and max(3, height - len(title)))


def header(status: Status) -> list[str]:
    """Return the lines about the whole study, its driver, and damaged files."""
    counts = f"{status.settled} of {status.total} parts settled"
    running = f", {status.running} running" if status.running else ""
    first = f"{status.study}: {STATES[status.state]}; {counts}{running}{_time_left(status)}"
    lines = [first, _driver(status.driver)]
    if status.damaged:
        lines.append(f"{len(status.damaged)} damaged files, the first: {status.damaged[0]}")
    return lines


def _time_left(status: Status) -> str:
    if status.seconds_left is None:
        return ""
    untimed = " and ".join(status.untimed)
    rest = f" plus the {untimed} (none timed yet)" if untimed else ""
    return f"; about {format_duration(status.seconds_left)} left{rest}"


def _driver(driver: DriverStatus) -> str:
    if driver.pid is None or driver.since is None:
        return "no driver is known"
    age = format_duration((datetime.now(UTC) - datetime.fromisoformat(driver.since)).total_seconds())
    process = f"process {driver.pid} on {driver.host}, started {age} ago"
    if driver.alive:
        return f"driver: {process}"
    ended = "" if driver.alive is None else ", has ended"
    return f"last driver: {process}{ended}; last sign of life {format_duration(driver.idle)} ago"


def details(arm: ArmStatus) -> Iterator[str]:
    """Yield the lines about an arm below its counts."""
    for job in arm.running:
        place = f"process {job.pid} on {job.host}" if job.host else "no worker has it yet"
        yield f"{_progress(job)}, {place}"
    for job in arm.interrupted:
        yield f"interrupted: {_progress(job)}"
    for trouble in arm.troubles:
        error = f": {trouble.error}" if trouble.error else ""
        yield f"{trouble.count} {trouble.state} of {trouble.stage}{error}"
    if arm.best:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in arm.best.metrics.items())
        violation = f"; {arm.best.violation}" if arm.best.violation else ""
        yield f"best so far: {metrics} of trial {arm.best.trial} ({_params(arm.best.params)}){violation}"
    if arm.match and arm.match.target is not None:
        yield f"match of {arm.match.reference}'s {arm.match.metric} {arm.match.target:.4g}: {_match(arm.match)}"
    if arm.waits:
        yield arm.waits


def _progress(job: RunningJob) -> str:
    done = f"{job.done} of {job.of}" if job.of else f"{job.done}"
    loss = "" if job.loss is None else f", loss {job.loss:.3g}"
    return f"{job.name.removeprefix(f'{job.arm}: ')}: {done} {job.doing}{loss}"


def _match(match: MatchStatus) -> str:
    if match.params is None:
        strengths = [strength for strength in (match.below, match.above) if strength]
        tried = [f"{match.parameter} {tried.value:.3g} (residual {tried.residual:+.2g})" for tried in strengths]
        return f"so far {' and '.join(tried)}" if tried else "no strength is tried yet"
    within = "" if match.tolerance is None else f" (tolerance {match.tolerance:.2g})"
    interval = f"90% interval [{match.low:.3g}, {match.high:.3g}]"
    choice = f"{_params(match.params)}, {interval}, residual {match.residual:+.2g}{within}"
    return choice if match.feasible else f"NO MATCH: {match.reason}; {choice}"


def _params(params: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{name} {format_param(value)}" for name, value in params.items())
