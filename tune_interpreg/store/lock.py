"""One driver per store. A second driver is refused, with a message that names the first."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store


@contextmanager
def hold(store: Store) -> Iterator[None]:
    """Lock the store in this block. The system releases the lock when the process ends, for any reason.

    The lock is on a file, because network folders do not show other hosts a lock on a folder. File systems without
    locks are not locked.

    Raises:
        StoreError: another driver holds the lock (the message names its process, host and start), or the file cannot
            be made.
    """
    file = _open_lock_file(store)
    try:
        _acquire(store, file)
        try:
            yield
        finally:
            if store.is_unused():
                store.lock_file.unlink(missing_ok=True)
    finally:
        os.close(file)


def sign(store: Store) -> None:
    """Write the signature of this driver into a locked store.

    Until another driver signs, ``store`` and all stores made with its ``driver`` may write. Workers of a killed driver
    may live on for a moment; the new signature stops their writes.
    """
    signature = {
        "id": uuid.uuid4().hex,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store.driver = None
    store.write_json(store.driver_file, signature)
    store.driver = str(signature["id"])


def is_driver_alive(store: Store) -> bool | None:
    """Return whether the last driver still runs, or None if it ran on another machine.

    If its process exists, the lock decides whether this is still the driver: the system may have given the process
    number to another program.
    """
    signature = store.read_driver()
    pid = signature.get("pid")
    if signature.get("host") != socket.gethostname() or not isinstance(pid, int):
        return None if signature else False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a process of another user
    try:
        file = os.open(store.lock_file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # locked, or a file system without locks
        return True
    finally:
        os.close(file)
    return False


def _open_lock_file(store: Store) -> int:
    try:
        store.path.mkdir(parents=True, exist_ok=True)
        return os.open(store.lock_file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if store.path.is_dir():
            store.check_access()
        message = f"{store.path}: cannot be written ({error.strerror}); name another folder with --store"
        raise StoreError(message) from None


def _acquire(store: Store, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file).st_nlink:
            raise OSError("the last holder has just removed the file, and another process may lock its successor")
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return
        remedy = "wait for that run, stop it, or name another folder with --store"
        raise StoreError(f"{store.path}: is in use by {_describe_holder(store)}; {remedy}") from None


def _describe_holder(store: Store) -> str:
    signature = store.read_driver()
    if not signature.keys() >= {"pid", "host", "since"}:
        return "another process, which is about to start"
    return f"process {signature['pid']} on {signature['host']} since {signature['since']}"
