"""Connect to Ray: start it on this machine for one run, or join a cluster; a remedy for each way that this fails."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from tune_interpreg.cluster import ray_internals

#: Ray speaks HTTP/2: the first bytes of a client (preface and empty settings), and the frame type of the answer.
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", b"\4"

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}

#: Seconds to wait for an address to answer. Ray itself tries for 15 minutes.
PATIENCE = 5

#: Part of Ray's own message → remedy. The first match counts; the last one matches all messages.
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
    """There is no place to run: no cluster at the address, or no node that can run a trial."""


def start_local() -> None:
    """Start Ray on this machine with all cores and GPUs, without a dashboard, unreachable from other machines."""
    with ray_internals.listen_on_loopback(), ray_internals.wait_in_short_turns(), _explained("local"):
        ray.init(address="local", include_dashboard=False, object_store_memory=256 * 2**20, **_QUIET)


def join(where: str, runtime_env: Mapping[str, Any]) -> None:
    """Connect to a running cluster that has a node on this machine; raises ``ClusterError`` after a few seconds.

    where: HOST:PORT of its head, or ``auto``: RAY_ADDRESS if set, else the cluster on this machine.
    runtime_env: Ray's ``runtime_env`` for all workers of this run.
    """
    _require_ray(where, os.environ.get("RAY_ADDRESS", "") if where == "auto" else where)
    with _explained(where):
        ray.init(address=where, runtime_env=dict(runtime_env), **_QUIET)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Raise as ``ClusterError`` why Ray cannot connect."""
    try:
        yield
    except Exception as error:  # Ray raises bare Exception if one of its processes does not start
        text = f"{type(error).__name__}: {error}\n{error.__cause__}"
        remedy = next(remedy for sign, remedy in REMEDIES.items() if sign in text)
        message = str(error.__cause__ or error).strip()
        if "Traceback" in message:  # of another process
            message = message.splitlines()[-1]
        reason = " ".join(message.split()).partition(". Note:")[0].partition(". Ensure")[0].rstrip(".")
        raise ClusterError(f"--cluster {where}: {reason}; {remedy}") from None


def _require_ray(where: str, address: str) -> None:
    """Raise ``ClusterError`` if no Ray answers at the address. An empty address is left to Ray, which looks here."""
    if not address:
        return
    try:
        with open_address(address, PATIENCE) as connection:
            is_ray = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, ValueError) as error:
        raise ClusterError(f"--cluster {where}: {address} does not answer ({error}); {REMEDIES['']}") from None
    if not is_ray:
        raise ClusterError(f"--cluster {where}: the server at {address} is not Ray; {REMEDIES['']}")
    if not ray_internals.is_node_here():
        raise ClusterError(f"--cluster {where}: no node of a cluster runs here; {REMEDIES['No node info found']}")


def open_address(address: str, timeout: float) -> socket.socket:
    """Open a connection to HOST:PORT. Raises ``OSError``, or ``ValueError`` if the port is no number."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def _speaks_http2(connection: socket.socket) -> bool:
    connection.sendall(_PREFACE)
    try:
        return connection.recv(9)[3:4] == _SETTINGS
    except TimeoutError:
        return False
