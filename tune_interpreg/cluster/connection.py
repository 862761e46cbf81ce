"""Where Ray is: started on this machine for one run, or a cluster that runs already; and what to do where it is not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any

import ray
from ray._private import node, ray_constants, services

#: What HTTP/2, which Ray speaks, begins with: the preface and empty settings; and the answer's type of frame.
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", 4

#: Seconds for an address to answer; Ray itself would try for a quarter of an hour.
PATIENCE = 5

#: What to do, by what stands in Ray's own message; the last one fits all others.
REMEDIES = {
    "AuthenticationError": "it asks for a token: copy ~/.ray/auth_token of its head node to the same place here (or "
    "name the file in RAY_AUTH_TOKEN_PATH), and set RAY_AUTH_MODE=token",
    "Version mismatch": "install the versions of Python and Ray here that it was started with, or the other way round",
    "No node info found": "this machine is no node of it: run this on one of its nodes, or join it with "
    "`ray start --address=HOST:PORT`",
    "job": "its job was submitted with another runtime environment: leave py_modules out of that",
    "during startup": "its processes were killed, or this machine has too much to do: run the same command again",
    "": "start a cluster with `ray start --head`, give its address as HOST:PORT, or use --cluster local",
}


class ClusterError(RuntimeError):
    """No place to run: an address without a cluster, or a cluster that cannot run what a trial is."""


def start() -> None:
    """Start Ray on this machine with all its cores and GPUs, without a dashboard, out of reach of other machines."""
    with _loopback(), _interruptible(), _told("local"):
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=256 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )


def join(where: str, environment: Mapping[str, Any]) -> None:
    """Connect to a cluster that runs already, of which this machine is a node.

    where: HOST:PORT of its head, or ``auto``: RAY_ADDRESS, else the one on this machine.
    environment: Ray's ``runtime_env`` of all that runs from here.

    Raises ``ClusterError`` with the reason and a remedy, after a few seconds.
    """
    _require_ray(where, os.environ.get("RAY_ADDRESS", "") if where == "auto" else where)
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "2")  # attempts, a second each
    with _told(where):
        ray.init(address=where, runtime_env=dict(environment), log_to_driver=False, logging_level="ERROR")


def _loopback() -> AbstractContextManager[None]:
    """Servers started meanwhile listen on 127.0.0.1 alone, which Ray offers for other systems than Linux."""
    return _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False)


def _interruptible() -> AbstractContextManager[None]:
    """Signals are heard while Ray waits for its head's port, half a minute where a signal ended the head too.

    Python's lock is held all that time, so that neither a handler nor another thread would run.
    """
    if (wait := getattr(node, "wait_for_persisted_port", None)) is None:
        return nullcontext()  # it is Ray's own, and may have another name one day
    return _replaced(node, "wait_for_persisted_port", partial(_wait_for_port, wait))


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """A name of Ray's that stands for another value meanwhile."""
    usual = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, usual)


def _wait_for_port(wait: Callable[..., int], *place: str, timeout_ms: int) -> int:
    """What Ray's ``wait`` does, in turns of a fifth of a second; raises ``RuntimeError`` where the port never comes."""
    until = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            return wait(*place, timeout_ms=200)
        except RuntimeError:
            if time.monotonic() > until:
                raise


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turns what Ray raises when it cannot connect into a ``ClusterError``."""
    try:
        yield
    except Exception as error:  # Ray raises it itself where one of its processes does not come up
        text = f"{type(error).__name__}: {error}\n{error.__cause__ or ''}".strip()
        remedy = next(remedy for sign, remedy in REMEDIES.items() if sign in text)
        raise ClusterError(f"--cluster {where}: {_reason(error)}; {remedy}") from None


def _reason(error: BaseException) -> str:
    """What went wrong, of a message that may end in another program's traceback."""
    text = str(error.__cause__ or error).strip()
    text = text.splitlines()[-1] if "Traceback" in text else " ".join(text.split())
    return text.partition(". Note:")[0].partition(". Ensure")[0].rstrip(".")


def _require_ray(where: str, address: str) -> None:
    """Refuse an address where no Ray answers; an empty one is left to Ray, which looks for it on this machine."""
    if not address:
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PATIENCE) as line:
            heard = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(line)
    except (OSError, ValueError) as error:
        raise ClusterError(f"--cluster {where}: {address} does not answer ({error}); {REMEDIES['']}") from None
    if not heard:
        raise ClusterError(f"--cluster {where}: what answers at {address} is not Ray; {REMEDIES['']}")
    if not services.find_node_ids():
        raise ClusterError(f"--cluster {where}: no node of a cluster runs here; {REMEDIES['No node info found']}")


def _speaks_http2(line: socket.socket) -> bool:
    line.settimeout(PATIENCE)
    line.sendall(_PREFACE)
    try:
        return line.recv(9)[3:4] == bytes([_SETTINGS])
    except TimeoutError:
        return False
