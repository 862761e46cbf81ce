"""The words of `status`: a tree in a terminal, plain lines elsewhere, of the same facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.display import tree as branches
from tune_interpreg.display.account import format_duration
from tune_interpreg.display.tree import Branch
from tune_interpreg.schedule.stages import STAGE_NAMES
from tune_interpreg.status.facts import Arm, Driver, Match, Status, Tried, UnderWay
from tune_interpreg.study.fields import Scalar

UNITS = {"search": "epochs", "repeat": "epochs", "targets": "blocks", "checks": "checks"}
STATES = {
    "finished": "finished",
    "running": "running",
    "unknown": "running, unless its driver has died",
    "stopped": "stopped; the same run command goes on with it",
    "ended": "ended, for what is left cannot run",
}


def lines(status: Status) -> list[str]:
    """Plain lines: the study's, then each arm's, which begin with its name."""
    arms = [f"{arm.name}: {one}" for arm in status.arms for one in (_counts(arm), *details(arm))]
    return [*header(status), *arms]


def tree(status: Status, width: int, height: int | None = None) -> Tree:
    """The same as a tree with bars, of at most ``height`` lines where that is given."""
    own = {arm.name: arm.stages for arm in status.arms}
    drawn = branches.arm_lines({arm.name: arm.parent for arm in status.arms}, own, width)
    told = Text if height is None else branches.one_line
    made = [
        Branch.from_stages(arm.name, arm.parent, drawn[arm.name], arm.stages, [told(one) for one in details(arm)])
        for arm in status.arms
    ]
    above = [told(one) for one in header(status)]
    return branches.draw_tree(Group(*above), made, height and max(3, height - len(above)))


def header(status: Status) -> list[str]:
    """How far all is, who runs it, and what is damaged."""
    counts = f"{status.settled} of {status.total} parts settled"
    running = f", {status.running} under way" if status.running else ""
    found = [f"{status.study}: {STATES[status.state]}; {counts}{running}{_left(status)}", _driver(status.driver)]
    if status.damaged:
        found.append(f"{len(status.damaged)} damaged files, the first: {status.damaged[0]}")
    return found


def _left(status: Status) -> str:
    if status.seconds_left is None:
        return ""
    untimed = " and ".join(STAGE_NAMES[role] for role in status.untimed)
    return f"; about {format_duration(status.seconds_left)} left" + (f" and the {untimed}, as none has run" if untimed else "")


def _driver(driver: Driver) -> str:
    if driver.pid is None or driver.since is None:
        return "nobody has signed it as its driver"
    ago = format_duration((datetime.now(UTC) - datetime.fromisoformat(driver.since)).total_seconds())
    whose = f"process {driver.pid} on {driver.host}, begun {ago} ago"
    if driver.alive:
        return f"driver: {whose}"
    ended = "" if driver.alive is None else ", has ended"
    return f"last driver: {whose}{ended}; last sign of life {format_duration(driver.idle)} ago"


def _counts(arm: Arm) -> str:
    return ", ".join(f"{STAGE_NAMES[one.role]} {one.settled}/{one.total}" for one in arm.stages)


def details(arm: Arm) -> Iterator[str]:
    """What is told of an arm beside its counts."""
    for one in arm.running:
        yield f"{_what(arm, one)}: {_reached(one)}, {_where(one)}"
    for one in arm.interrupted:
        yield f"interrupted: {_what(arm, one)}, {_reached(one)}"
    for trouble in arm.troubles:
        why = f": {trouble.error}" if trouble.error else ""
        yield f"{trouble.count} {trouble.state} of {STAGE_NAMES[trouble.role]}{why}"
    if arm.best:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in arm.best.metrics.items())
        yield f"best so far: {metrics} of trial {arm.best.trial} ({_params(arm.best.params)})"
    if arm.match and arm.match.target is not None:
        yield f"match of {arm.match.reference}'s {arm.match.metric} {arm.match.target:.4g}: {_match(arm.match)}"
    if arm.waits:
        yield arm.waits


def _what(arm: Arm, one: UnderWay) -> str:
    return one.name.removeprefix(f"{arm.name}: ")


def _reached(one: UnderWay) -> str:
    done = f"{one.epoch} of {one.of}" if one.of else f"{one.epoch}"
    return f"{done} {UNITS[one.role]}" + ("" if one.loss is None else f", loss {one.loss:.3g}")


def _where(one: UnderWay) -> str:
    return f"process {one.pid} on {one.host}" if one.host else "no worker has begun it yet"


def _match(match: Match) -> str:
    if match.params is None:
        tried = [_tried(match.parameter, one) for one in (match.below, match.above) if one]
        return f"so far {' and '.join(tried)}" if tried else "no strength is tried yet"
    told = f"{_params(match.params)}, 90% interval [{match.low:.3g}, {match.high:.3g}]"
    within = "" if match.tolerance is None else f" (tolerance {match.tolerance:.2g})"
    residual = f", residual {match.residual:+.2g}{within}"
    return f"{told}{residual}" if match.feasible else f"NO MATCH: {match.reason}; {told}{residual}"


def _tried(parameter: str, one: Tried) -> str:
    return f"{parameter} {one.value:.3g} (residual {one.residual:+.2g})"


def _params(params: Mapping[str, Scalar]) -> str:
    told = {name: value if isinstance(value, str) else f"{value:.3g}" for name, value in params.items()}
    return ", ".join(f"{name} {value}" for name, value in told.items())
