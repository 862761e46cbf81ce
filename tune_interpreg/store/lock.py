"""One driver per store. A second driver is refused, with a message that names the first."""

import errno
import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import BinaryIO

from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store


@contextmanager
def hold(store: Store) -> Iterator[None]:
    """Lock the store in this block. The system releases the lock when the process ends, for any reason.

    The lock is on a file, because network folders do not show other hosts a lock on a folder. File systems without
    locks are not locked. Raises ``StoreError`` if another driver holds the lock, or the file cannot be made.
    """
    with _open_lock_file(store) as file:
        _acquire(store, file)
        try:
            yield
        finally:
            if store.is_unused():
                store.lock_file.unlink(missing_ok=True)


def sign(store: Store) -> None:
    """Write the signature of this driver into a locked store.

    Until another driver signs, ``store`` and all stores made with its ``driver`` may write. Workers of a killed driver
    may live on for a moment; the new signature stops their writes.
    """
    process = {"pid": os.getpid(), "host": socket.gethostname()}
    signature = {"id": uuid.uuid4().hex, **process, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    store.driver = None
    store.write_json(store.driver_file, signature)
    store.driver = str(signature["id"])


def is_driver_alive(store: Store) -> bool | None:
    """Return whether the last driver still runs, or None if it ran on another machine.

    The lock decides, because the system may have given the driver's process number to another program.
    """
    signature = store.read_driver()
    pid = signature.get("pid")
    if signature.get("host") != socket.gethostname() or not isinstance(pid, int):
        return None if signature else False
    try:
        with suppress(PermissionError):  # a process of another user
            os.kill(pid, 0)
        with store.lock_file.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ProcessLookupError, FileNotFoundError):
        return False
    except OSError:  # locked, or a file system without locks
        return True
    return False


def _open_lock_file(store: Store) -> BinaryIO:
    try:
        store.path.mkdir(parents=True, exist_ok=True)
        return store.lock_file.open("a+b")
    except OSError as error:
        if store.path.is_dir():
            store.check_access()
        message = f"{store.path}: cannot be written ({error.strerror}); name another folder with --store"
        raise StoreError(message) from None


def _acquire(store: Store, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file.fileno()).st_nlink:
            raise OSError("the last holder has just removed the file, and another process may lock its successor")
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return
        signature, holder = store.read_driver(), "another process, which is about to start"
        if signature.keys() >= {"pid", "host", "since"}:
            holder = f"process {signature['pid']} on {signature['host']} since {signature['since']}"
        remedy = "wait for that run, stop it, or name another folder with --store"
        raise StoreError(f"{store.path}: is in use by {holder}; {remedy}") from None
