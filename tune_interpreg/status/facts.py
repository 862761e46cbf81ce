"""What `status` tells of a study: plain values, of which the text and the JSON are made alike."""

from __future__ import annotations

from dataclasses import dataclass

from tune_interpreg.schedule.stages import Stage
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Role


@dataclass(frozen=True)
class Driver:
    """Who runs the study, or ran it last; alive is None where another machine would have to be asked.

    since: when it began. idle: seconds since the store was last written to.
    """

    pid: int | None
    host: str | None
    since: str | None
    alive: bool | None
    idle: float


@dataclass(frozen=True)
class UnderWay:
    """An item that runs, or that a run began and left.

    epoch, of: at its last checkpoint (of maps: blocks; of checks: checks). host, pid: of the worker that has it, once
    it has begun.
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
    """Items of one role that failed, diverged or were pruned, and the first line of the first one's error."""

    role: Role
    state: str
    count: int
    error: str | None


@dataclass(frozen=True)
class Best:
    """The trial whose parameters a search that maximizes would choose now, and its validation metrics."""

    trial: int
    params: dict[str, Scalar]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Tried:
    """A strength that was tried, and its loss minus the one to match."""

    value: float
    residual: float


@dataclass(frozen=True)
class Match:
    """The strength ``parameter`` whose loss is that of ``reference``.

    target: that loss, once it is known. params: what was chosen, and of the strength its 90% interval and the expected
    residual; where nothing matches, feasible is False and reason says why. As long as the search goes on they are None,
    and below and above are the strengths tried that come nearest to the match from either side.
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
    below: Tried | None = None
    above: Tried | None = None


@dataclass(frozen=True)
class Arm:
    """An arm of the tree. parent: the arm it hangs on. waits: why nothing of it can start, where it has parts left."""

    name: str
    parent: str | None
    stages: tuple[Stage, ...]
    running: tuple[UnderWay, ...]
    interrupted: tuple[UnderWay, ...]
    troubles: tuple[Trouble, ...]
    best: Best | None
    match: Match | None
    waits: str | None


@dataclass(frozen=True)
class Status:
    """A study and how far it is.

    state: ``finished``; ``running``; ``unknown`` where the driver is another machine's; ``ended``: nothing can run any
    more, but parts are missing; ``stopped``: `run` goes on with it. settled, running, total: parts.
    seconds_left: about, but for the parts that are ``untimed``: by role, of which none has been timed.
    """

    study: str
    store: str
    state: str
    driver: Driver
    settled: int
    running: int
    total: int
    seconds_left: float | None
    untimed: dict[Role, int]
    damaged: tuple[str, ...]
    arms: tuple[Arm, ...]
