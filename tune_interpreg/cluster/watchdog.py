"""End a run, with a message, when its Ray cluster has died. Left alone, Tune would wait forever."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray

from tune_interpreg import stopping
from tune_interpreg.cluster.connection import open_address
from tune_interpreg.stopping import Stop

logger = logging.getLogger(__name__)

#: Seconds between two checks, for a cluster to restart its head, and for head or raylet to accept a connection.
PERIOD, SILENCE, PATIENCE = 1.0, 40.0, 3.0

#: The exit code of a run after its cluster died, and the reason if its local part did.
LOST, RAYLET_DIED = 2, "Ray on this machine has died (its raylet was killed, or ran out of memory)"


@contextmanager
def watch_cluster(stop: Stop) -> Iterator[None]:
    """End the process with ``LOST`` if the cluster dies in this block, by a thread: Tune's answer may never come.

    A signal to the whole process group also ends the raylet. Then the run stops as requested.
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
        loss = RAYLET_DIED if _is_closed(raylet) else ""
        if not loss and _is_answering(head):
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


def _is_answering(head: str) -> bool:
    try:
        with open_address(head, PATIENCE):
            return True
    except OSError:
        return False


def _is_closed(path: str) -> bool:
    """Return whether nothing listens at a socket's path any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, suppress(OSError):
        connection.settimeout(PATIENCE)
        try:
            connection.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
    return False  # also if it is too busy to answer
