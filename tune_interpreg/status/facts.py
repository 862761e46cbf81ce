"""The progress of a study as plain values, from which `status` makes its text and its JSON."""

from dataclasses import dataclass

from tune_interpreg.schedule.graph import Stage
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import StageName


@dataclass(frozen=True)
class DriverStatus:
    """The process that runs the study, or ran it last."""

    pid: int | None
    host: str | None
    since: str | None  # when it started
    alive: bool | None  # None if only another machine could say
    idle: float  # seconds since the store was last written to


@dataclass(frozen=True)
class RunningJob:
    """A job that runs, or that a run left unfinished, at its last checkpoint.

    doing: ``epochs`` of its trainings, ``blocks`` of its maps, its ``checks``, or its other ``judgments``.
    """

    name: str
    arm: str
    stage: StageName
    number: int | None  # of a trial
    seeds: tuple[int, ...]
    doing: str
    done: int
    of: int | None
    loss: float | None  # training loss, mean over the seeds
    seconds: float  # time spent
    host: str | None = None  # of its worker, once a worker has it
    pid: int | None = None


@dataclass(frozen=True)
class Trouble:
    """Items of one stage that failed, diverged or were pruned, and the first line of the first error."""

    stage: StageName
    state: str
    count: int
    error: str | None


@dataclass(frozen=True)
class BestTrial:
    """The trial that a search that maximizes would choose now, and its validation metrics.

    violation: that no trial satisfies the search's ``where``, and the nearest value; None if this one does.
    """

    trial: int
    params: dict[str, Scalar]
    metrics: dict[str, float]
    violation: str | None


@dataclass(frozen=True)
class TriedStrength:
    """A tried strength, and its loss − target loss."""

    value: float
    residual: float


@dataclass(frozen=True)
class MatchStatus:
    """The search for the strength ``parameter`` with the loss of the arm ``reference``; the choice once it is over."""

    reference: str
    metric: str
    parameter: str
    target: float | None = None  # loss to match, once it is known
    tolerance: float | None = None
    params: dict[str, Scalar] | None = None
    low: float | None = None  # 90% interval of the strength
    high: float | None = None
    residual: float | None = None  # expected
    feasible: bool | None = None
    reason: str | None = None  # why no strength matches
    below: TriedStrength | None = None  # while the search runs: nearest to the match from either side
    above: TriedStrength | None = None


@dataclass(frozen=True)
class ArmStatus:
    """An arm of the tree below its ``parent``.

    waits: why nothing of it can start, or how many of its models have judgments that wait for other models.
    """

    name: str
    parent: str | None
    stages: tuple[Stage, ...]
    running: tuple[RunningJob, ...]
    interrupted: tuple[RunningJob, ...]
    troubles: tuple[Trouble, ...]
    best: BestTrial | None
    match: MatchStatus | None
    waits: str | None


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    state: ``finished``; ``running``; ``unknown`` if the driver is on another machine; ``stopped`` if `run` would
    continue it; ``ended`` if parts are missing that cannot run.
    """

    study: str
    store: str
    state: str
    driver: DriverStatus
    settled: int  # parts
    running: int
    total: int
    seconds_left: float | None  # estimate, without the untimed parts
    untimed: dict[StageName, int]  # parts left, of stages without a time so far
    damaged: tuple[str, ...]
    arms: tuple[ArmStatus, ...]
