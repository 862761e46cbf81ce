"""End a run, with a message, when its Ray cluster has died. Left alone, Tune would wait forever."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from tune_interpreg import stopping
from tune_interpreg.cluster.connection import open_address
from tune_interpreg.stopping import Stop

logger = logging.getLogger(__name__)

#: Seconds between two checks, and how long a head may be silent: a cluster needs time to restart its head.
PERIOD, SILENCE = 1.0, 40.0

#: Seconds for the head or the raylet to accept a connection.
PATIENCE = 3.0

RAYLET_DIED = "Ray on this machine has died (its raylet was killed, or ran out of memory)"

#: The exit code of a run after its cluster died.
LOST = 2


@contextmanager
def watch_cluster(stop: Stop) -> Iterator[None]:
    """End the process with ``LOST`` if the cluster dies in this block, unless the run was asked to stop.

    A signal to the whole process group also ends the raylet; then the run stops as it was asked. A thread checks,
    because the main thread may wait for an answer that never comes.
    """
    over = threading.Event()
    thread = threading.Thread(target=_check_until, args=(over, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=PATIENCE)


def _check_until(over: threading.Event, stop: Stop) -> None:
    context = ray.get_runtime_context()
    node_id, head, answered = context.get_node_id(), context.gcs_address, time.monotonic()
    raylet = next((node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == node_id), "")
    while not over.wait(PERIOD):
        # A dead raylet's socket is closed at once, ten seconds before the head notices.
        loss = RAYLET_DIED if is_closed(raylet) else ""
        if not loss and is_answering(head):
            answered = time.monotonic()
            is_alive = any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
            loss = "" if is_alive else RAYLET_DIED
        elif not loss and time.monotonic() - answered > SILENCE:
            loss = f"the head of the Ray cluster at {head} does not answer any more"
        if stop.requested:
            return
        if loss:
            logger.error(loss)
            stopping.exit_now(LOST, f"error: {loss}; finished work is stored: run the same command again to continue")


def is_answering(head: str) -> bool:
    """Return whether anything listens at HOST:PORT."""
    try:
        with open_address(head, PATIENCE):
            return True
    except OSError:
        return False


def is_closed(path: str) -> bool:
    """Return whether nothing listens at a socket's path any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:  # alive, but too busy to answer
            return False
    return False
