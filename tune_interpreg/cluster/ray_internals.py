"""All private names of Ray that the project uses. Each was seen in Ray 2.60.

A name that a later Ray lacks is not used. After an upgrade, ``tests/cluster/test_ray_internals.py`` checks all names.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pkgutil import resolve_name
from typing import Any

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayActorError

#: Private name → what is lost without it.
NAMES = {
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": "a local Ray listens to other machines",
    "ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV": "a run under `uv run` uploads its working folder",
    "ray._private.node.wait_for_persisted_port": "a signal waits up to half a minute while Ray starts",
    "ray._private.state.available_resources_per_node": "a full cluster is noticed only if its nodes are full together",
    "ray._private.services.find_node_ids": "a machine without a node waits for Ray's own, slower refusal",
    "ray._private.services.canonicalize_bootstrap_address": "`auto` waits a minute for a Ray that does not answer",
    "ray._private.utils.get_num_cpus": "a plan may count more cores than a container has",
    "ray._private.accelerators.nvidia_gpu.NvidiaGPUAcceleratorManager.get_current_node_num_accelerators": (
        "a plan counts GPUs by PyTorch"
    ),
    "ray.air.execution._internal.actor_manager.RayActorManager._actor_task_failed": (
        "a worker that Ray's memory monitor kills ends the whole run"
    ),
}

#: Environment variable that Ray reads and does not document → its value here. Ray ignores what it does not know.
VARIABLES = {
    "RAY_prestart_worker_first_driver": "0",  # ray.init waits forever for a first worker that dies while it starts
    "RAY_gcs_server_port_wait_time_s": "2",  # attempts of one second to reach a cluster's head
    # Ray's handler ends the process when SIGTERM arrives in ray.init. ``stopping`` sets this before Ray is imported.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
}


def find(name: str) -> Any:
    """Return the object with this dotted name, or None if Ray no longer has it."""
    try:
        return resolve_name(name)
    except (ImportError, AttributeError):
        return None


@contextmanager
def replaced(name: str, value: object) -> Iterator[None]:
    """Give a name of Ray's another value in this block; does nothing if Ray no longer has it."""
    owner_name, _, attribute = name.rpartition(".")
    usual, owner = find(name), find(owner_name)
    if usual is not None:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        if usual is not None:
            setattr(owner, attribute, usual)


def listen_on_loopback() -> AbstractContextManager[None]:
    """Let servers that Ray starts in this block listen on 127.0.0.1 only, as Ray does on other systems than Linux."""
    return replaced("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)


def ignore_uv_run() -> AbstractContextManager[None]:
    """Let workers use this Python as it is. Under ``uv run``, Ray would upload the working folder and install again."""
    return replaced("ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV", False)


def wait_in_short_turns() -> AbstractContextManager[None]:
    """Let Python handle signals in this block while Ray waits for the port of its head.

    Ray waits in foreign code that holds Python's lock, for half a minute if a signal ended the head too. No handler and
    no other thread runs in that time.
    """
    name = "ray._private.node.wait_for_persisted_port"
    usual = find(name)

    def wait_for_port(*place: str, timeout_ms: int) -> int:
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            try:
                return usual(*place, timeout_ms=200)
            except RuntimeError:  # the port did not appear
                if time.monotonic() > deadline:
                    raise

    return replaced(name, wait_for_port)


def is_node_here() -> bool:
    """Return whether a Ray node runs on this machine. Without the name: True, and ``ray.init`` finds out."""
    node_ids = find("ray._private.services.find_node_ids")
    return node_ids is None or bool(node_ids())


def address_here() -> str:
    """Return the address of the Ray that ``auto`` stands for. Without one, or the name: empty; ``ray.init`` looks."""
    resolve = find("ray._private.services.canonicalize_bootstrap_address")
    with suppress(ConnectionError):
        return (resolve and resolve("auto")) or ""
    return ""


def free_resources() -> list[Mapping[str, float]]:
    """Return the resources of each node that no work holds. Without the name: their sums, as if of one node."""
    per_node = find("ray._private.state.available_resources_per_node")
    return list(per_node().values()) if per_node else [ray.available_resources()]


def local_resources() -> Mapping[str, float]:
    """Return the CPUs and GPUs that Ray would declare for this machine, without starting Ray."""
    count_cpus = find("ray._private.utils.get_num_cpus") or (lambda: len(os.sched_getaffinity(0)))
    manager = "ray._private.accelerators.nvidia_gpu.NvidiaGPUAcceleratorManager"
    count_gpus = find(f"{manager}.get_current_node_num_accelerators") or torch.cuda.device_count
    return {"CPU": count_cpus(), "GPU": count_gpus()}


def survive_out_of_memory() -> AbstractContextManager[None]:
    """Let Tune count a worker that Ray's memory monitor kills in this block as dead, and continue the run.

    Ray reports ``OutOfMemoryError``, which is no ``RayActorError``, and Tune would end the run.
    """
    name = "ray.air.execution._internal.actor_manager.RayActorManager._actor_task_failed"
    usual = find(name)

    def task_failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        killed = isinstance(exception, OutOfMemoryError)
        usual(manager, tracked_actor_task, RayActorError(error_msg=str(exception)) if killed else exception)

    return replaced(name, task_failed)


def storage_of(trainable: object) -> Any:
    """Return the storage that Tune gave to a Trainable; None outside of Tune, and without the name ``_storage``."""
    return getattr(trainable, "_storage", None)
