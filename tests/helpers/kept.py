"""What a store has to show for itself when its study is finished, to be compared with another run's of that study."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

#: What two runs of one study may differ in.
INCIDENTAL = ("seconds", "spent", "finished", "device", "sha256")


@dataclass(frozen=True)
class Kept:
    """Records, models and maps of a store."""

    store: Path

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """By arm and file name, without what may differ."""
        return {
            f"{path.parent.name}/{path.stem}": {key: value for key, value in record.items() if key not in INCIDENTAL}
            for path in sorted(self.store.glob("ledger/*/*.json"))
            for record in [json.loads(path.read_text())]
        }

    @cached_property
    def made(self) -> dict[str, str]:
        """Models, maps and previews: path → hash."""
        files = [path for place in ("models", "targets") for path in (self.store / place).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def leftovers(self) -> list[Path]:
        """What no finished study has: temporary files, checkpoints, Tune's own folder, damaged files."""
        left = [*self.store.rglob("*.part"), *(self.store / "checkpoints").glob("*"), self.store / ".tune"]
        return [path for path in [*left, self.store / "damaged"] if path.exists()]

    def difference(self, other: Kept, *, in_order: bool) -> list[str]:
        """Where the two differ; out of order, a search may have proposed something else."""
        mine, others = (self.records | self.made), (other.records | other.made)
        names = mine.keys() | others.keys() if in_order else mine.keys() & others.keys()
        return sorted(name for name in names if mine.get(name) != others.get(name))

    def shape(self) -> Counter[tuple[str, str, str]]:
        return Counter((record["arm"], record["role"], record["state"]) for record in self.records.values())


def epochs(folder: Path) -> list[list[int]]:
    """The epochs that a trial's workers ran, a list a worker, in order."""
    return [[event.step for event in _losses(path)] for path in sorted(folder.glob("events.*"))]


def _losses(path: Path) -> Iterator[Any]:
    for event in EventFileLoader(str(path)).Load():
        if any(value.tag == "train/loss" for value in event.summary.value):
            yield event
