"""The contents of a finished store, to be compared with another run of the same study."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tune_interpreg.display.trial_log import tag
from tune_interpreg.study.metric_names import TRAIN_LOSS

#: The fields in which two runs of one study may differ.
INCIDENTAL = ("seconds", "spent", "finished", "device", "sha256")


@dataclass(frozen=True)
class Kept:
    """Records, models and maps of a store."""

    store: Path

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Arm and file name → the record without its incidental fields."""
        records = {}
        for path in sorted(self.store.glob("ledger/*/*.json")):
            fields = json.loads(path.read_text()).items()
            records[f"{path.parent.name}/{path.stem}"] = {key: value for key, value in fields if key not in INCIDENTAL}
        return records

    @cached_property
    def made(self) -> dict[str, str]:
        """Path → hash, of models, maps and previews."""
        files = [path for place in ("models", "targets") for path in (self.store / place).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def leftovers(self) -> list[Path]:
        """Return what no finished study has: temporary files, checkpoints, Tune's folder, damaged files."""
        paths = [*self.store.rglob("*.part"), *(self.store / "checkpoints").glob("*"), self.store / ".tune"]
        return [path for path in [*paths, self.store / "damaged"] if path.exists()]

    def difference(self, other: Kept) -> list[str]:
        """Return where the two differ."""
        mine, others = (self.records | self.made), (other.records | other.made)
        return sorted(name for name in mine.keys() | others.keys() if mine.get(name) != others.get(name))

    def trainings(self) -> list[dict[str, Any]]:
        """Return the records of trainings, without copies."""
        return [
            record
            for name, record in self.records.items()
            if record["kind"] == "train" and name.endswith(record["key"])
        ]

    def shape(self) -> Counter[tuple[str, str, str]]:
        return Counter((record["arm"], record["kind"], record["state"]) for record in self.records.values())


def epochs(folder: Path) -> list[list[int]]:
    """Return the epochs that a trial's workers ran, a list per worker that finished one, in order."""
    return [steps for path in sorted(folder.glob("events.*")) if (steps := read_epochs(path))]


def read_epochs(file: Path) -> list[int]:
    """Return the epochs in a file of events. The file of a worker that only takes judgments has none."""
    events = EventFileLoader(str(file)).Load()
    return [event.step for event in events if any(value.tag == tag(TRAIN_LOSS) for value in event.summary.value)]
