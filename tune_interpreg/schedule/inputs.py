"""The files that items read of other items: checked against the records of those that made them, right before use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tune_interpreg.store.files import Damaged, verify_checksum
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Role
from tune_interpreg.study.recipe import CheckedModel, Maps

#: How often one run makes the same file anew before it gives up the items that need it.
REMAKES = 2


class Inputs:
    """Who made which file of the store, and which of them are damaged."""

    def __init__(self, store: Store):
        self.store = store
        self._made: dict[str, tuple[str, str]] = {}  # path in the store → checksum, and the key of the item
        self._remade: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """Take what a settled item made."""
        for name, checksum in record.get("files", {}).items():
            self._made[name] = (checksum, record["key"])

    def damaged(self, role: Role, of: Maps | CheckedModel | None) -> list[Damaged]:
        """Those of an item's inputs that are not what was made, or are missing."""
        return list(self._damaged(role, of))

    def may_remake(self, damaged: Sequence[Damaged]) -> bool:
        """Whether these have not been made anew too often."""
        return all(self._remade[self._name(one)] < REMAKES for one in damaged)

    def set_aside(self, damaged: Damaged) -> tuple[str, str]:
        """Move a file away, to be made anew: what to tell the user, and the key of the item that made it."""
        name = self._name(damaged)
        self._remade[name] += 1
        return self.store.set_aside(damaged), self._made[name][1]

    def _damaged(self, role: Role, of: Maps | CheckedModel | None) -> Iterator[Damaged]:
        for path in self.store.inputs(role, of):
            checksum, _ = self._made.get(path.relative_to(self.store.path).as_posix(), (None, None))
            if checksum is None:
                continue
            try:
                verify_checksum(path, checksum)
            except Damaged as error:
                yield error

    def _name(self, damaged: Damaged) -> str:
        return damaged.path.relative_to(self.store.path).as_posix()
