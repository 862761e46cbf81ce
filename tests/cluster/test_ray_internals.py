"""Private names of Ray: each is there, does what we use it for, and may be gone without harm to anything else."""

import mmap
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import Trainable

from tune_interpreg.cluster import ray_internals

PORT = "ray._private.node.wait_for_persisted_port"
LOOPBACK = "ray._private.ray_constants.ENABLE_RAY_CLUSTER"
TASK_FAILED = "ray.air.execution._internal.actor_manager.RayActorManager._actor_task_failed"


# ----------------------------------------------------------------- after an upgrade of Ray
@pytest.mark.parametrize("name", ray_internals.NAMES)
def test_a_private_name_is_there(name: str) -> None:
    lost = ray_internals.NAMES[name]
    assert ray_internals.find(name) is not None, f"{name} is gone in Ray {ray.__version__}: {lost}"


@pytest.mark.parametrize("variable", ray_internals.VARIABLES)
def test_ray_still_reads_the_variable(variable: str) -> None:
    """The name stands in Ray's Python code, or in its raylet, which adds the prefix itself."""
    package = Path(ray.__file__).parent
    with (package / "core/src/ray/raylet/raylet").open("rb") as file:
        binary = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        in_raylet = binary.find(variable.removeprefix("RAY_").encode()) >= 0
    in_python = any(variable in path.read_text() for path in (package / "_private").glob("*.py"))
    assert in_raylet or in_python, f"{variable} is gone in Ray {ray.__version__}"


def test_a_trainable_keeps_the_storage_that_tune_gave_it() -> None:
    assert "_storage" in vars(Trainable({})), f"ray.tune.Trainable._storage is gone in Ray {ray.__version__}"


# ------------------------------------------------------------------------- what they do
def test_a_name_has_another_value_inside_the_block_only() -> None:
    usual = ray_internals.find(LOOPBACK)
    with ray_internals.listen_on_loopback():
        assert ray_internals.find(LOOPBACK) is False
    assert ray_internals.find(LOOPBACK) is usual


def test_the_address_here_is_the_one_that_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:41235")
    assert ray_internals.address_here() == "10.0.0.7:41235"


def test_a_signal_is_handled_while_ray_waits_for_its_heads_port(tmp_path: Path) -> None:
    """Ray itself waits in foreign code that holds Python's lock."""
    place, start = (str(tmp_path), "0" * 56, "gcs_server"), time.monotonic()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with ray_internals.wait_in_short_turns(), pytest.raises(KeyboardInterrupt):
            ray_internals.find(PORT)(*place, timeout_ms=20_000)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - start < 5
    with ray_internals.wait_in_short_turns(), pytest.raises(RuntimeError, match="Timed out"):
        ray_internals.find(PORT)(*place, timeout_ms=500)


def test_a_worker_out_of_memory_counts_as_dead() -> None:
    """Tune's actor manager cleans up after a dead actor, and raises any other error of Ray's."""
    dead: list[Exception] = []
    manager = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    actor = SimpleNamespace(actor_id=1, _on_error=lambda actor, error: dead.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    with ray_internals.survive_out_of_memory():
        ray_internals.find(TASK_FAILED)(manager, task, OutOfMemoryError("memory ran out"))
    assert isinstance(dead[0], RayActorError)
    assert "memory ran out" in str(dead[0])


# ------------------------------------------------------------------------- if one is gone
def test_everything_works_without_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_internals.find("ray.tune.Trainable.gone.too") is None
    monkeypatch.setattr(ray_internals, "find", lambda name: None)
    for block in (
        ray_internals.listen_on_loopback,
        ray_internals.ignore_uv_run,
        ray_internals.wait_in_short_turns,
        ray_internals.survive_out_of_memory,
    ):
        with block():
            pass
    assert ray_internals.is_node_here()
    assert ray_internals.local_resources()["CPU"] == len(os.sched_getaffinity(0))
    assert ray_internals.storage_of(object()) is None
