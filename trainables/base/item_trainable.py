"""The base of all Trainables that run an item: methods, and the stages around them."""

import json
import socket
from collections.abc import Mapping
from typing import Any

from ray import tune

from trainables.base.assignment import Assignment
from tune_interpreg.store import ledger
from tune_interpreg.training.device import keep_freed_memory, use_exact_float32


class ItemTrainable(tune.Trainable):
    """Prepare the process for an item, and write the item's record.

    Within a study the configuration is ``{item, store, driver, device}``. ``warning`` is a message for the user, which
    the study's worker sends with the next result.
    """

    warning: str | None

    def setup(self, config: dict[str, Any]) -> None:
        keep_freed_memory()
        use_exact_float32()
        self.assignment = self._read_config(config)
        self.item, self.recipe = self.assignment.item, self.assignment.item.recipe
        self.data = self.assignment.load_data()
        self.warning = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def _read_config(self, config: dict[str, Any]) -> Assignment:
        if "item" not in config:
            name = type(self).__name__
            raise ValueError(f"{name} runs within a study only: its configuration is {{item, store, device}}")
        return Assignment.from_study(config)

    def _finish_item(
        self, state: ledger.RecordState, *, extra: Mapping[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Write the item's record and return the last result for Tune.

        Args:
            state: of the record.
            extra: keys of the record that only this kind of item has.
            fields: arguments of ``ledger.make_record``.
        """
        record = ledger.make_record(
            self.item, state, device=self.assignment.device_name, host=socket.gethostname(), **fields
        )
        record |= extra or {}
        if self.assignment.store:
            self.assignment.store.write_record(record)
        return {"epoch": record["epochs"], "record": json.dumps(record), "done": True}
