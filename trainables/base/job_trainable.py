"""The base of all Trainables that run items of a job: training methods, maps and judgments."""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ray import tune

from trainables.base.assignment import Assignment
from tune_interpreg.store import ledger
from tune_interpreg.store.files import Damaged
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item
from tune_interpreg.training.device import keep_freed_memory, use_exact_float32


class JobTrainable(tune.Trainable):
    """Prepare the process for a job, and write the records of its items.

    Within a study the configuration is ``{job, store, driver, device}``. ``warning`` is a message for the user, which
    the study's worker sends with the next result.
    """

    warning: str | None

    def setup(self, config: dict[str, Any]) -> None:
        keep_freed_memory()
        use_exact_float32()
        self.assignment = Assignment.from_study(config) if "job" in config else self._read_plain_config(config)
        self.job, self.recipe = self.assignment.job, self.assignment.job.recipe
        self.data = self.assignment.load_data()
        self.warning = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def _read_plain_config(self, config: dict[str, Any]) -> Assignment:
        raise ValueError(f"{type(self).__name__} runs within a study only, with the keys job, store and device")

    @contextmanager
    def _set_damage_aside(self, consequence: str) -> Iterator[None]:
        """Set a file that is found damaged in this block aside, and warn of the consequence."""
        assert self.assignment.store is not None
        try:
            yield
        except Damaged as error:
            self.warning = f"{self.assignment.store.set_aside(error)}; {consequence}"

    def _record(
        self, item: Item, state: ledger.RecordState, *, extra: Mapping[str, Any] | None = None, **fields: Any
    ) -> Record:
        """Write and return an item's record, of fields for ``ledger.make_record`` and extra keys."""
        device = self.assignment.device
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        record = ledger.make_record(self.job, item, state, device=name, host=socket.gethostname(), **fields)
        record |= extra or {}
        if self.assignment.store:
            self.assignment.store.write_record(record)
        return record


def result_of(records: Sequence[Record], *, done: bool) -> dict[str, Any]:
    """Return the result of a step that finished items; ``done``: it was the last step."""
    return {"epoch": max(record["epochs"] for record in records), "records": json.dumps(records), "done": done}
