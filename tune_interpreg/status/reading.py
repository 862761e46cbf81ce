"""What `status` reads of a store besides its study: records, each once, and how far the items under way are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_interpreg.store.files import Damaged, read_checked
from tune_interpreg.store.store import FIELDS, Record, Store
from tune_interpreg.study.items import Item


class Ledger:
    """The records of a store that somebody else writes; what was read before and is the same file is not read again."""

    def __init__(self, store: Store):
        self._store = store
        self._known: dict[Path, tuple[object, Record | Damaged]] = {}

    def look(self) -> tuple[list[Record], list[Damaged]]:
        """The whole records as they are now, and the damaged ones."""
        self._known = dict(self._read())
        found = [one for _, one in self._known.values()]
        damaged = [one for one in found if isinstance(one, Damaged)]
        return [one for one in found if not isinstance(one, Damaged)], damaged

    def _read(self) -> Iterator[tuple[Path, tuple[object, Record | Damaged]]]:
        for path in sorted((self._store.path / "ledger").glob("*/*.json")):
            try:
                now = path.stat()
            except FileNotFoundError:  # set aside just now
                continue
            stamp = (now.st_mtime_ns, now.st_ino, now.st_size)
            before, content = self._known.get(path, (None, None))
            yield path, (stamp, content if content is not None and before == stamp else _record(path))


def _record(path: Path) -> Record | Damaged:
    try:
        record = read_checked(path)
    except Damaged as error:
        return error
    missing = [name for name in FIELDS if name not in record]
    return Damaged(path, f"is no ledger record: it lacks {', '.join(missing)}") if missing else record


@dataclass(frozen=True)
class Reached:
    """How far an item under way was at its last checkpoint: its epoch, block of maps or check, of how many.

    seconds: that it has taken. loss: its training loss, the mean over its seeds.
    """

    epoch: int = 0
    of: int | None = None
    seconds: float = 0.0
    loss: float | None = None


def reached(store: Store, item: Item) -> Reached:
    """Nothing where it has left nothing yet, or what it left cannot be read."""
    folder, trains = store.checkpoint_dir(item.key), item.role in ("search", "repeat")
    of = item.recipe.training.epochs if trains else None
    try:
        if trains:
            known = json.loads(_header(folder / "epoch.safetensors")["__metadata__"]["progress"])
            return Reached(known["epoch"], of, sum(known.get("spent", {}).values()), _loss(known["curves"]))
        known = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        done = known["blocks"] if item.role == "targets" else known["checks"]
        return Reached(len(done), known.get("of"), known["seconds"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reached(0, of)


def _header(path: Path) -> Any:
    """The header of a safetensors file: its length in 8 bytes, then JSON; the tensors are left alone."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(min(length, os.fstat(file.fileno()).st_size)))


def _loss(curves: dict[str, list[dict[str, float]]]) -> float | None:
    losses = [curve[-1]["train/loss"] for curve in curves.values() if curve]
    return sum(losses) / len(losses) if losses else None


def changed(store: Store) -> float:
    """When the store was last written to, in seconds since 1970."""
    folders = (store.path, store.driver_file, *store.path.glob("ledger/*/"), *store.path.glob("checkpoints/*/"))
    return max(map(modified, folders))


def modified(path: Path) -> float:
    """When a file, or a folder's list of files, was last changed, in seconds since 1970; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
