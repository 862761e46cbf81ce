"""The files that items read of other items, checked against the records of the items that made them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tune_interpreg.store.files import verify_checksum
from tune_interpreg.store.store import Damaged, Record, Store
from tune_interpreg.study.items import Item


class Inputs:
    """The checksums of all files that items have made."""

    def __init__(self, store: Store):
        self.store = store
        self._checksums: dict[Path, str] = {}

    def add(self, record: Record) -> None:
        """Take the files of a settled item."""
        self._checksums.update(self._files(record))

    def damaged_of(self, item: Item) -> list[Damaged]:
        """Return the damaged or missing files among an item's inputs."""
        return self._damaged(self.paths_of(item))

    def damaged_outputs(self, record: Record) -> list[Damaged]:
        """Return the damaged or missing files among those that a record's item made."""
        return self._damaged(self._files(record))

    def paths_of(self, item: Item) -> tuple[Path, ...]:
        """Return the files of other items that an item reads."""
        return self.store.input_files(item.role, item.recipe.checked or item.recipe.maps)

    def _files(self, record: Record) -> dict[Path, str]:
        return {self.store.path / name: checksum for name, checksum in record.get("files", {}).items()}

    def _damaged(self, paths: Iterable[Path]) -> list[Damaged]:
        damaged = []
        for path in paths:
            try:
                if path in self._checksums:
                    verify_checksum(path, self._checksums[path])
            except Damaged as error:
                damaged.append(error)
        return damaged
