"""Read the files that W&B writes offline.

They are logs in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind seven bytes of
W&B's own. Their records are W&B's protocol buffers. The package itself reads them in its Go program only.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """A run as W&B would send it: what identifies it, its configuration, and by step its history."""

    fields: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, float]] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    exit_code: int | None = None
    artifacts: dict[str, list[str]] = field(default_factory=dict)  # type → paths of its files


def read_offline_runs(folder: Path) -> list[OfflineRun]:
    """Return the runs below a folder, in the order in which they were made."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [_read_run(file) for file in files]


def _read_run(file: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for content in _records(file.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            made = record.run
            run.fields = {
                "id": made.run_id,
                "name": made.display_name,
                "group": made.run_group,
                "job_type": made.job_type,
                "project": made.project,
            }
            run.config |= _values(made.config.update)
        elif kind == "history":
            run.history[record.history.step.num] = _values(record.history.item)
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
        elif kind == "artifact":
            run.artifacts[record.artifact.type] = [entry.path for entry in record.artifact.manifest.contents]
        elif kind == "request" and record.request.HasField("log_artifact"):
            artifact = record.request.log_artifact.artifact
            run.artifacts[artifact.type] = [entry.path for entry in artifact.manifest.contents]
    return run


def _values(items: Any) -> dict[str, Any]:
    """Return the items of W&B under their names, without those of W&B itself."""
    named = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
    return {name: value for name, value in named.items() if not name.startswith("_")}


def _records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a log."""
    position, parts = HEADER, b""
    while position + HEADER <= len(log):
        if BLOCK - position % BLOCK < HEADER:  # zeros that fill a block
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", log, position)
        position += HEADER
        parts += log[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield parts
            parts = b""
