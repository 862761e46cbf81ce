"""Whether the cluster still lives beneath a run: where it dies, the run ends and says so, and waits no longer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tune_interpreg import stopping
from tune_interpreg.stopping import Stop

#: Seconds between two looks, and how long a head may be silent: a cluster that restarts its head needs some.
PERIOD, SILENCE = 1.0, 40.0

#: Seconds for a head to answer at all.
PATIENCE = 3.0

RAYLET_DIED = "Ray on this machine has died (its raylet was killed, or ran out of memory)"

#: The exit code of a run whose cluster died.
LOST = 2


@contextmanager
def watched(head: str, raylet: str, has_node: Callable[[], bool], stop: Stop) -> Iterator[None]:
    """While the block runs, end the process with ``LOST`` where the cluster is gone, unless it was asked to stop.

    head: HOST:PORT at which the head answers. raylet: the socket of this machine's raylet, a path: closed as soon as it
    is dead, which the head finds out some ten seconds later. has_node: whether the cluster still counts this machine as
    its own; asked only while the head answers. stop: of the run; a signal to the whole process group ends the raylet
    too, and then the run stops as it was asked. A thread looks: the main one may wait for an answer that never comes.
    """
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(head, raylet, has_node, stop, over), daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join(timeout=PATIENCE)


def _look(head: str, raylet: str, has_node: Callable[[], bool], stop: Stop, over: threading.Event) -> None:
    heard = time.monotonic()
    while not over.wait(PERIOD):
        lost = RAYLET_DIED if is_closed(raylet) else ""
        if not lost and answers(head):
            heard = time.monotonic()
            lost = "" if has_node() else RAYLET_DIED
        elif not lost and time.monotonic() - heard > SILENCE:
            lost = f"the head of the Ray cluster at {head} does not answer any more"
        if stop.asked:
            return
        if lost:
            stopping.leave(LOST, f"error: {lost}; what is done is kept: run the same command again to go on")


def answers(head: str) -> bool:
    """Whether anything listens at HOST:PORT."""
    host, _, port = head.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            return True
    except OSError:
        return False


def is_closed(path: str) -> bool:
    """Whether nothing listens any more at a socket's path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(PATIENCE)
        try:
            line.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:  # it has too much to do to answer
            return False
    return False
