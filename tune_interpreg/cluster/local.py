"""Start Ray on this machine for one run, whatever the user's environment is."""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from tune_interpreg.cluster import ray_internals
from tune_interpreg.cluster.connection import QUIET, SETTINGS, ClusterError, explain

#: Places for Ray's folder, after RAY_TMPDIR and TMPDIR.
PLACES = ("/tmp", "/var/tmp", "/dev/shm")

#: The longest path of a Unix socket on Linux, and what Ray and ``make_folder`` append to the place, in bytes.
_LONGEST_SOCKET = 107
_APPENDED = len("/ray-12345678/session_2026-11-30_09-00-00_123456_1234567/sockets/plasma_store")

#: Bytes that must be free there: for logs, and above the 5% below which Ray refuses to spill objects.
ROOM = 100 * 2**20

#: Variables that would connect a local Ray to something else, or change what its workers import.
_FOREIGN = ("RAY_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR")


@contextmanager
def started() -> Iterator[None]:
    """Run Ray in this block, with all cores and GPUs, without a dashboard, unreachable from other machines and users.

    Its sockets and logs lie in a folder of their own, which is deleted at the end, but not if Ray does not start.
    Raises ``ClusterError`` if Ray does not start.
    """
    names = sorted(name for name in os.environ if name.startswith("RAY_") and name not in (*SETTINGS, *_FOREIGN))
    for name in _FOREIGN:
        os.environ.pop(name, None)
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray itself would write one into the home folder
    folder = make_folder()
    remedy = f"run the same command again, or use --cluster in-process; Ray's logs are in {folder}"
    if names:
        remedy = f"unset the variables that Ray reads ({', '.join(names)}), or {remedy}"
    with (
        explain("local", remedy),
        ray_internals.listen_on_loopback(),
        ray_internals.wait_in_short_turns(),
        ray_internals.ignore_uv_run(),
    ):
        ray.init(address="local", _temp_dir=folder, include_dashboard=False, object_store_memory=256 * 2**20, **QUIET)
    try:
        yield
    finally:
        try:
            ray.shutdown()
        finally:  # also if a signal interrupts it
            shutil.rmtree(folder, ignore_errors=True)


def make_folder() -> str:
    """Make a folder with a path that is short enough for Ray's sockets.

    Raises ``ClusterError`` if there is no place for one.
    """
    named = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    problems = []
    for place in dict.fromkeys([*named, *PLACES]):
        problem = _find_problem(place)
        if not problem:
            try:
                return tempfile.mkdtemp(prefix="ray-", dir=place)
            except OSError as error:
                problem = f"cannot be written ({error.strerror})"
        problems.append(f"{place} {problem}")
    remedy = f"set RAY_TMPDIR to a folder with a plain path of at most {_LONGEST_SOCKET - _APPENDED} bytes"
    raise ClusterError(f"--cluster local: no place for Ray's sockets and logs: {'; '.join(problems)}; {remedy}")


def _find_problem(place: str) -> str:
    """Return why Ray cannot use a folder; empty if it can."""
    if not os.path.isdir(place):
        return "is no folder"
    if not re.fullmatch(r"/[\w./+-]*", place, re.ASCII):
        return "holds a character that Ray cannot take"
    if len(place.rstrip("/")) + _APPENDED > _LONGEST_SOCKET:
        return "is too long for the path of a socket"
    if shutil.disk_usage(place).free < ROOM:
        return f"has less than {ROOM // 2**20} MiB free"
    return ""
