"""The progress of a study as plain values, from which `status` makes its text and its JSON."""

from __future__ import annotations

from dataclasses import dataclass

from tune_interpreg.schedule.stages import Stage
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Role


@dataclass(frozen=True)
class DriverStatus:
    """The process that runs the study, or ran it last.

    Attributes:
        since: when it started.
        alive: None if only another machine could tell.
        idle: seconds since the store was last written to.
    """

    pid: int | None
    host: str | None
    since: str | None
    alive: bool | None
    idle: float


@dataclass(frozen=True)
class RunningItem:
    """An item that runs, or that a run left unfinished.

    Attributes:
        epoch, of: epochs at its last checkpoint and in total; blocks for maps, checks for checks.
        loss: training loss at the last checkpoint, mean over the seeds.
        seconds: time spent until then.
        host, pid: of its worker, once a worker has it.
    """

    name: str
    arm: str
    role: Role
    number: int
    seeds: tuple[int, ...]
    epoch: int
    of: int | None
    loss: float | None
    seconds: float
    host: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Trouble:
    """Items of one role that failed, diverged or were pruned, and the first line of the first error."""

    role: Role
    state: str
    count: int
    error: str | None


@dataclass(frozen=True)
class BestTrial:
    """The trial that a search that maximizes would choose now, and its validation metrics."""

    trial: int
    params: dict[str, Scalar]
    metrics: dict[str, float]


@dataclass(frozen=True)
class TriedStrength:
    """A tried strength, and its loss − target loss."""

    value: float
    residual: float


@dataclass(frozen=True)
class MatchStatus:
    """The search for the strength ``parameter`` with the loss of the arm ``reference``.

    Attributes:
        target: the loss to match, once it is known.
        params, low, high, residual: the choice, the 90% interval of its strength, and its expected residual.
        feasible, reason: False, and why, if no strength matches. None while the search runs, like the choice.
        below, above: while the search runs, the tried strengths nearest to the match from either side.
    """

    reference: str
    metric: str
    parameter: str
    target: float | None = None
    tolerance: float | None = None
    params: dict[str, Scalar] | None = None
    low: float | None = None
    high: float | None = None
    residual: float | None = None
    feasible: bool | None = None
    reason: str | None = None
    below: TriedStrength | None = None
    above: TriedStrength | None = None


@dataclass(frozen=True)
class ArmStatus:
    """An arm of the tree below its ``parent``; ``waits`` says why nothing of it can start, if it has parts left."""

    name: str
    parent: str | None
    stages: tuple[Stage, ...]
    running: tuple[RunningItem, ...]
    interrupted: tuple[RunningItem, ...]
    troubles: tuple[Trouble, ...]
    best: BestTrial | None
    match: MatchStatus | None
    waits: str | None


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    Attributes:
        state: ``finished``; ``running``; ``unknown`` if the driver is on another machine; ``stopped`` if `run` would
            continue it; ``ended`` if parts are missing that cannot run.
        settled, running, total: numbers of parts.
        seconds_left: estimate, without the ``untimed`` parts.
        untimed: parts left per role, for roles without a time so far.
    """

    study: str
    store: str
    state: str
    driver: DriverStatus
    settled: int
    running: int
    total: int
    seconds_left: float | None
    untimed: dict[Role, int]
    damaged: tuple[str, ...]
    arms: tuple[ArmStatus, ...]
