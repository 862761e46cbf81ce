"""One driver a store: a second one is refused, and told who the first is."""

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

#: What is locked: a file, for network folders tell other hosts of no lock on a folder. It stays, whoever holds it.
LOCK = "driver.lock"


@contextmanager
def hold(store: Store) -> Iterator[None]:
    """Hold the store as its only driver; the system frees it when this process ends, however it ends.

    On a file system without locks (some network folders) nothing is held.

    Raises ``StoreError`` with process, host and start of the driver that holds it, or where it cannot be made.
    """
    file = _opened(store)
    try:
        _take(store, file)
        try:
            yield
        finally:
            if store.is_unused():
                (store.path / LOCK).unlink(missing_ok=True)
    finally:
        os.close(file)


def sign(store: Store) -> None:
    """Leave in a held store who this is, for those that come while it is held.

    From now on ``store``, and whatever is made with its ``driver``, writes only until another driver signs: the workers
    of a driver that was killed may live on for a moment.
    """
    since, own = datetime.now(UTC).isoformat(timespec="seconds"), uuid.uuid4().hex
    signature = {"id": own, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
    store.driver = None
    store.write_json(store.driver_file, signature)
    store.driver = own


def is_driver_alive(store: Store) -> bool | None:
    """Whether the driver that signed the store last still runs; None where another machine would have to be asked.

    The store is left alone while it does: only where its process is gone, and another has its number by now, the lock
    is taken for a moment to tell the two apart.
    """
    known = store.read_driver()
    if known.get("host") != socket.gethostname() or not isinstance(pid := known.get("pid"), int):
        return None if known else False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    try:
        file = os.open(store.path / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or without locks, where the process is all that is known
        return True
    finally:
        os.close(file)
    return False


def _opened(store: Store) -> int:
    try:
        store.path.mkdir(parents=True, exist_ok=True)
        return os.open(store.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if store.path.is_dir():
            store.check_access()
        message = f"{store.path}: cannot be written ({error.strerror}); name another folder with --store"
        raise StoreError(message) from None


def _take(store: Store, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file).st_nlink:
            raise OSError("whoever held it has just removed it, and another may hold its successor")
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return
        remedy = "wait for that run, stop it, or name another folder with --store"
        raise StoreError(f"{store.path}: is in use by {_holder(store)}; {remedy}") from None


def _holder(store: Store) -> str:
    known = store.read_driver()
    if not known.keys() >= {"pid", "host", "since"}:
        return "another process, which is about to start"
    return f"process {known['pid']} on {known['host']} since {known['since']}"
