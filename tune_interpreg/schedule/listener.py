"""The interface of whatever follows a run: displays in a terminal, logs, accounts of time."""

from collections.abc import Mapping

from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item


class Listener:
    """Receives every event of a run from the dispatcher, and ignores what a subclass does not override."""

    def start(self, item: Item) -> None:
        """An item starts."""

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        """An item reports the metrics of an epoch."""

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        """An item has a record; ``settled`` of ``total`` parts of the study have one."""
