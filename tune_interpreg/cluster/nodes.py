"""The cluster's nodes: how many jobs they can run at once, and whether a worker ended because its node did."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from tune_interpreg.cluster import ray_internals
from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.study.config import Resources
from tune_interpreg.study.items import Job

#: Kinds of jobs by what they need: a training judges its models in the same worker.
Stage = Literal["train", "judge", "maps"]
NAMES = {"train": "a trial", "judge": "a job that judges", "maps": "a job that makes maps"}

#: Seconds between two looks at the nodes, and without a node for any trial until the user is warned.
PERIOD, PATIENCE = 1.0, 60.0
#: Seconds that Ray may take to free the resources of a run that has just ended.
RELEASE = 3.0


def stage_of(job: Job) -> Stage:
    """Return the stage of ``resources`` that a job belongs to."""
    if job.trains:
        return "train"
    return "maps" if job.stage == "maps" else "judge"


class Slots:
    """Decide whether the nodes, which may join and leave, have room for another job.

    resources: of a study. say: prints a line for the user. now: a clock, in seconds.
    """

    def __init__(self, resources: Resources, say: Callable[[str], object], now: Callable[[], float] = time.monotonic):
        self._resources, self._say, self._now = resources, say, now
        self._counts: Mapping[Stage, int] = {}
        self._counted = -math.inf
        self._last_slot, self._warned = now(), False

    def has_room(self, running: Iterable[Job]) -> bool:
        """Return whether another job can start next to these: each takes its part of the nodes.

        True without running jobs: a waiting job shows an autoscaler which resources are missing. Warns the user once if
        no node could run a trial for a minute.
        """
        now = self._now()
        if now - self._counted >= PERIOD:
            nodes, self._counted = living_nodes(), now
            self._counts = count_slots(nodes, self._resources)
            if all(self._counts.values()):
                self._last_slot, self._warned = now, False
            elif now - self._last_slot >= PATIENCE and not self._warned:
                self._warned = True
                lack = _describe_lack(nodes, self._resources)
                self._say(f"waiting for a node: {lack}; add one, or stop with Ctrl-C and run again later")
        return sum(1 / max(1, self._counts[stage_of(job)]) for job in running) < 1 - 1e-9


def require_slots(nodes: Sequence[Mapping[str, float]], resources: Resources) -> int:
    """Return how many trials the nodes run at once. Raises ``ClusterError`` if they cannot run one of some stage."""
    slots = count_slots(nodes, resources)
    if not all(slots.values()):
        lack = _describe_lack(nodes, resources)
        raise ClusterError(f"resources: {lack}; lower resources in the study, or --set resources.gpus=0")
    return slots["train"]


def count_slots(nodes: Sequence[Mapping[str, float]], resources: Resources) -> dict[Stage, int]:
    """Return how many jobs of each stage the nodes run at once, if they run no others."""
    stages: tuple[Stage, ...] = get_args(Stage)
    return {stage: sum(count_jobs(node, resources.of(stage)) for node in nodes) for stage in stages}


def _describe_lack(nodes: Sequence[Mapping[str, float]], resources: Resources) -> str:
    stage = next(stage for stage, count in count_slots(nodes, resources).items() if not count)
    return f"{_describe_request(stage, resources)}, but no node has them (nodes: {_describe_nodes(nodes)})"


def _describe_nodes(nodes: Sequence[Mapping[str, float]]) -> str:
    return "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes) or "none"


def _describe_request(stage: Stage, resources: Resources) -> str:
    needed = resources.of(stage)
    return f"{NAMES[stage]} asks for {needed.cpus:g} CPUs and {needed.gpus:g} GPUs"


def describe_other_work(resources: Resources) -> str | None:
    """Return a line for the user if no job can start, because other work holds the nodes' resources; else None.

    Waits some seconds for a run that has just ended. Call it before this run holds any resources.
    """
    deadline = time.monotonic() + RELEASE
    stages: tuple[Stage, ...] = get_args(Stage)
    while True:
        free = ray_internals.free_resources()
        if any(_has(node, resources.of(stage)) for node in free for stage in stages):
            return None
        if time.monotonic() > deadline:
            if not free:  # no node has reported yet
                return None
            request = f"{_describe_request('train', resources)}, which other work on the cluster holds"
            return f"waiting: {request} (free: {_describe_nodes(free)}); the study starts when they are free"
        time.sleep(0.1)


def _has(free: Mapping[str, float], needed: Resources) -> bool:
    return free.get("CPU", 0) >= needed.cpus and free.get("GPU", 0) >= needed.gpus


def living_nodes() -> list[Mapping[str, float]]:
    """Return the resources that each living node declares: CPU, GPU and others."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def count_jobs(node: Mapping[str, float], resources: Resources) -> int:
    """Return how many jobs one node can run at once. A fraction of a GPU must lie on one GPU."""
    cpus, gpus = _quotient(node.get("CPU", 0), resources.cpus), node.get("GPU", 0)
    if not resources.gpus:
        return cpus
    if resources.gpus < 1:
        return min(cpus, math.floor(gpus) * _quotient(1, resources.gpus))
    return min(cpus, _quotient(gpus, resources.gpus))


def _quotient(there: float, required: float) -> int:
    return math.floor(there / required + 1e-9)  # 0.3 / 0.1 is a little less than 3


def is_node_lost(error: Any) -> bool:
    """Return whether a worker ended because its node did, which does not count against the worker's item."""
    if not isinstance(error, RayActorError):
        return False
    if isinstance(error, ActorUnavailableError) or error.preempted:  # its node may not count as dead yet
        return True
    return any(node["NodeID"] in str(error) for node in ray.nodes() if not node["Alive"])
