"""Where the items under way are: each worker notes it beside the item's checkpoint, for whoever asks how far all is."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass

from tune_interpreg.store.store import Store


@dataclass(frozen=True)
class WorkerProcess:
    """The process that works on an item. driver: the signature of the run that started it."""

    host: str
    pid: int
    driver: str | None


def record_worker(store: Store, key: str) -> None:
    """Note that this process works on the item ``key``.

    Nothing rests on it: it is neither sealed nor waited for until it is on the disk, and a folder that is gone, since
    another run has settled the item, stays gone.
    """
    file, own = store.worker_file(key), WorkerProcess(socket.gethostname(), os.getpid(), store.driver)
    temporary = file.with_name(f".{file.name}-{own.host}-{own.pid}.part")
    with suppress(OSError):
        temporary.write_text(json.dumps(vars(own)), encoding="utf-8")
        os.replace(temporary, file)


def read_worker(store: Store, key: str) -> WorkerProcess | None:
    """Where the item ``key`` is worked on; None before a worker has begun, or where that cannot be read."""
    try:
        return WorkerProcess(**json.loads(store.worker_file(key).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
