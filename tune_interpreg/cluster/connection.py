"""Join a running Ray cluster, with a remedy for each way that this fails."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from tune_interpreg.cluster import ray_internals

#: Ray speaks HTTP/2: the first bytes of a client (preface and empty settings), and the frame type of the answer.
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", b"\4"

#: Options of ``ray.init``: print nothing.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}

#: Environment variables of Ray, unless the user has set them, and of Tune (see ``environment``).
SETTINGS = ray_internals.VARIABLES | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a worker's death is retried; the dispatcher reports what is given up
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours also handles SIGTERM, and limits the time to stop
}

#: Seconds to wait for an address to answer. Ray itself tries for 15 minutes.
PATIENCE = 5

NO_TOKEN = (
    "it asks for a token: copy ~/.ray/auth_token of its head node to the same place here (or name the file in "
    "RAY_AUTH_TOKEN_PATH), and set RAY_AUTH_MODE=token"
)
NO_NODE = "this machine is no node of it: run this on one of its nodes, or join it with `ray start --address=HOST:PORT`"
NO_CLUSTER = "start a cluster with `ray start --head`, give its address as HOST:PORT, or use local or in-process"

#: Beginning of Ray's own message → remedy. The rest of a message may hold anything, such as the user's paths.
REMEDIES = {
    "ray.exceptions.AuthenticationError": NO_TOKEN,  # in another process
    "Version mismatch": "install the versions of Python and Ray here that it was started with, or the other way round",
    "No node info found": NO_NODE,
    "Failed to merge the Job's runtime env": "its job was submitted with another runtime environment: leave py_modules "
    "out of that",
    "The current node timed out during startup": "its processes were killed, or this machine has too much to do: run "
    "the same command again",
}


class ClusterError(RuntimeError):
    """There is no place to run: no cluster at the address, or no node that can run a trial."""


def join(where: str, runtime_env: Mapping[str, Any]) -> None:
    """Connect to a running cluster that has a node on this machine; raises ``ClusterError`` after a few seconds.

    The working folder is not uploaded, not even under ``uv run``.

    where: HOST:PORT of its head, or ``auto``: RAY_ADDRESS if set, else the cluster on this machine.
    runtime_env: Ray's ``runtime_env`` for all workers of this run.
    """
    _require_ray(where, (os.environ.get("RAY_ADDRESS") or ray_internals.address_here()) if where == "auto" else where)
    with explain(where, NO_CLUSTER), ray_internals.ignore_uv_run():
        ray.init(address=where, runtime_env=dict(runtime_env), **QUIET)


@contextmanager
def explain(where: str, remedy: str) -> Iterator[None]:
    """Raise as ``ClusterError`` why Ray cannot start or be joined, with ``remedy`` if Ray's reason has none."""
    try:
        yield
    except Exception as error:  # Ray raises bare Exception if one of its processes does not start
        message = str(error.__cause__ or error).strip()
        if "Traceback (most recent call last)" in message:  # of another process
            message = message.splitlines()[-1]
        is_token = isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError)
        texts = (str(error), message)
        named = (advice for beginning, advice in REMEDIES.items() if any(text.startswith(beginning) for text in texts))
        remedy = NO_TOKEN if is_token else next(named, remedy)
        reason = " ".join(message.split()).partition(". Note:")[0].partition(". Ensure")[0].rstrip(".")
        raise ClusterError(f"--cluster {where}: {reason}; {remedy}") from None


def _require_ray(where: str, address: str) -> None:
    """Raise ``ClusterError`` if no Ray answers at the address. An empty address is left to Ray, which looks here."""
    if not address:
        return
    try:
        with open_address(address, PATIENCE) as connection:
            is_ray = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except ValueError:
        raise ClusterError(f"--cluster {where}: {address} has no port; {NO_CLUSTER}") from None
    except OSError as error:
        raise ClusterError(f"--cluster {where}: {address} does not answer ({error}); {NO_CLUSTER}") from None
    if not is_ray:
        raise ClusterError(f"--cluster {where}: the server at {address} is not Ray; {NO_CLUSTER}")
    if not ray_internals.is_node_here():
        raise ClusterError(f"--cluster {where}: no node of a cluster runs here; {NO_NODE}")


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
