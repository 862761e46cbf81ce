"""The worker of each item in progress. A worker records itself next to the item's checkpoint; ``status`` reads it."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass

from tune_interpreg.store.store import Store


@dataclass(frozen=True)
class WorkerProcess:
    """The process that works on an item. driver: signature of the run that started it."""

    host: str
    pid: int
    driver: str | None


def record_worker(store: Store, key: str) -> None:
    """Record that this process works on the item ``key``.

    Informational only: no checksum, no fsync. A missing folder stays missing, because another run finished the item.
    """
    file, worker = store.worker_file(key), WorkerProcess(socket.gethostname(), os.getpid(), store.driver)
    temporary = file.with_name(f".{file.name}-{worker.host}-{worker.pid}.part")
    with suppress(OSError):
        temporary.write_text(json.dumps(vars(worker)), encoding="utf-8")
        os.replace(temporary, file)


def read_worker(store: Store, key: str) -> WorkerProcess | None:
    """Return the worker of the item ``key``; None before a worker starts, or if the file cannot be read."""
    try:
        return WorkerProcess(**json.loads(store.worker_file(key).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
