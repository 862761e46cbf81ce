"""The interface of whatever follows a run: displays in a terminal, logs, accounts of time."""

from collections.abc import Mapping, Sequence

from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Job


class Listener:
    """Receives every event of a run from the dispatcher, and ignores what a subclass does not override."""

    def start(self, job: Job) -> None:
        """A job starts."""

    def epoch(self, job: Job, metrics: Mapping[str, float]) -> None:
        """A job reports the metrics of an epoch."""

    def finish(self, job: Job, records: Sequence[Record], settled: int, total: int) -> None:
        """A job has ended with these records; ``settled`` of ``total`` parts of the study have a result."""
