"""One driver a store: a second one is refused, and told who the first is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tune_interpreg.store import Store, StoreError


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Hold the store's folder as its only driver; the system frees it when this process ends, however it ends.

    On a file system without locks (some network folders) nothing is held.

    Raises ``StoreError`` with process, host and start of the driver that holds it, or where it cannot be made.
    """
    try:
        store.path.mkdir(parents=True, exist_ok=True)
        folder = os.open(store.path, os.O_RDONLY)
    except OSError as error:
        message = f"{store.path}: cannot be written ({error.strerror}); name another folder with --store"
        raise StoreError(message) from None
    try:
        _take(store, folder)
        yield
    finally:
        os.close(folder)


def sign(store: Store) -> None:
    """Leave in a held store who this is, for those that come while it is held."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    store.write_json(store.driver_file, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})


def _take(store: Store, folder: int) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return
        remedy = "wait for that run, stop it, or name another folder with --store"
        raise StoreError(f"{store.path}: is in use by {_holder(store)}; {remedy}") from None


def _holder(store: Store) -> str:
    try:
        known = json.loads(store.driver_file.read_text(encoding="utf-8"))
        return f"process {known['pid']} on {known['host']} since {known['since']}"
    except (OSError, ValueError, KeyError):
        return "another process, which is about to start"
