"""The nodes of the cluster: what they hold, which changes while a study runs, and what went with one that is gone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray._private.utils import get_num_cpus
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.study.config import Resources

#: Seconds between two looks at the nodes, and those without a node for a trial after which the user is told.
LOOK, PATIENCE = 1.0, 60.0

_USUAL = RayActorManager._actor_task_failed


class Nodes:
    """How many trials of one size the living nodes hold.

    resources: of one trial. say: tells the user. now: a clock, in seconds.
    """

    def __init__(self, resources: Resources, say: Callable[[str], object], now: Callable[[], float] = time.monotonic):
        self._resources, self._say, self._now = resources, say, now
        self._room, self._looked, self._roomy, self._told = 0, -math.inf, now(), False

    def require(self) -> None:
        """Raise ``ClusterError`` where no node can run a trial."""
        together(living(), self._resources)

    def room(self) -> int:
        """How many trials they hold at once, at least 1: one that waits tells an autoscaler what is missing.

        Tells the user, once, where no node could run a trial for a minute.
        """
        if self._now() - self._looked >= LOOK:
            self._room, self._looked = self._count(), self._now()
            self._mind()
        return max(1, self._room)

    def _mind(self) -> None:
        if self._room:
            self._roomy, self._told = self._now(), False
        elif self._now() - self._roomy >= PATIENCE and not self._told:
            self._told = True
            lack = _lack(living(), self._resources)
            self._say(f"waiting for a node: {lack}; add one, or stop with Ctrl-C and go on later")

    def _count(self) -> int:
        return sum(trials(held, self._resources) for held in living())


def together(held: Sequence[Mapping[str, float]], asked: Resources) -> int:
    """How many trials of ``asked`` nodes run at once that hold so much; raises ``ClusterError`` where they run none."""
    if not (room := sum(trials(one, asked) for one in held)):
        raise ClusterError(f"resources: {_lack(held, asked)}; lower resources in the study, or --set resources.gpus=0")
    return room


def _lack(held: Sequence[Mapping[str, float]], asked: Resources) -> str:
    there = [f"{one.get('CPU', 0):g} CPUs, {one.get('GPU', 0):g} GPUs" for one in held]
    return (
        f"a trial asks for {asked.cpus:g} CPUs and {asked.gpus:g} GPUs, but no node has them "
        f"(nodes: {'; '.join(there) or 'none'})"
    )


def here() -> Mapping[str, float]:
    """What Ray declares of this machine where it is started without more ado."""
    return {"CPU": get_num_cpus(), "GPU": NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()}


def living() -> list[Mapping[str, float]]:
    """What each node that is alive declares: CPU, GPU and others."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def trials(held: Mapping[str, float], asked: Resources) -> int:
    """How many trials of ``asked`` a node with ``held`` runs at once; a fraction of a GPU lies on one GPU."""
    cpus = _whole(held.get("CPU", 0) / asked.cpus)
    if not asked.gpus:
        return cpus
    gpus = held.get("GPU", 0)
    return min(cpus, _whole(gpus) * _whole(1 / asked.gpus) if asked.gpus < 1 else _whole(gpus / asked.gpus))


def _whole(ratio: float) -> int:
    return math.floor(ratio + 1e-9)


def tell_out_of_memory() -> None:
    """Have Tune take it as a worker's death when Ray's memory monitor kills one; else that ends the whole run."""
    if RayActorManager._actor_task_failed is _USUAL:
        RayActorManager._actor_task_failed = _task_failed


def _task_failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
    killed = isinstance(exception, OutOfMemoryError)
    _USUAL(manager, tracked_actor_task, RayActorError(error_msg=str(exception)) if killed else exception)


def took(error: Any) -> bool:
    """Whether a worker's end was its node's, which says nothing against what it ran.

    A node that just fell silent is not yet known to be dead: its workers are out of reach.
    """
    if isinstance(error, ActorUnavailableError):
        return True
    if not isinstance(error, RayActorError):
        return False
    return error.preempted or any(node["NodeID"] in str(error) for node in ray.nodes() if not node["Alive"])
