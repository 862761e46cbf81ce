"""The cluster's nodes: how many trials they can run at once, and whether a worker ended because its node did."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.study.config import Resources

#: Seconds between two counts of the nodes, and without a node for any trial until the user is warned.
PERIOD, PATIENCE = 1.0, 60.0


class Slots:
    """Count how many trials the nodes, which may join and leave, can run at once.

    resources: of one trial. say: prints a line for the user. now: a clock, in seconds.
    """

    def __init__(self, resources: Resources, say: Callable[[str], object], now: Callable[[], float] = time.monotonic):
        self._resources, self._say, self._now = resources, say, now
        self._count, self._counted = 0, -math.inf
        self._last_slot, self._warned = now(), False

    def count(self) -> int:
        """Return the number of trials, at least 1: a waiting trial shows an autoscaler which resources are missing.

        Warns the user once if no node could run a trial for a minute.
        """
        now = self._now()
        if now - self._counted >= PERIOD:
            nodes, self._counted = living_nodes(), now
            self._count = sum(count_trials(node, self._resources) for node in nodes)
            if self._count:
                self._last_slot, self._warned = now, False
            elif now - self._last_slot >= PATIENCE and not self._warned:
                self._warned = True
                lack = _describe_lack(nodes, self._resources)
                self._say(f"waiting for a node: {lack}; add one, or stop with Ctrl-C and run again later")
        return max(1, self._count)


def require_slots(nodes: Sequence[Mapping[str, float]], resources: Resources) -> int:
    """Return how many trials the nodes run at once. Raises ``ClusterError`` if they cannot run one."""
    slots = sum(count_trials(node, resources) for node in nodes)
    if not slots:
        lack = _describe_lack(nodes, resources)
        raise ClusterError(f"resources: {lack}; lower resources in the study, or --set resources.gpus=0")
    return slots


def _describe_lack(nodes: Sequence[Mapping[str, float]], resources: Resources) -> str:
    sizes = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
    request = f"{resources.cpus:g} CPUs and {resources.gpus:g} GPUs"
    return f"a trial asks for {request}, but no node has them (nodes: {sizes or 'none'})"


def living_nodes() -> list[Mapping[str, float]]:
    """Return the resources that each living node declares: CPU, GPU and others."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def count_trials(node: Mapping[str, float], resources: Resources) -> int:
    """Return how many trials one node can run at once. A fraction of a GPU must lie on one GPU."""
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
