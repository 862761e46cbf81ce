"""An account of a run's time: how busy its workers were, with what, and how much time lay outside of their work."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from tune_interpreg.schedule.listener import Listener
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Job

#: Kinds of work in a record's ``spent``, and their names, in the order of the account.
WORK = {"train": "training", "evaluate": "evaluation", "maps": "maps", "checks": "checks"}
WORK |= {"log": "TensorBoard", "save": "saving"}
OTHER, OVERHEAD, IDLE = "other work", "starting, logging, scheduling", "nothing to do"


class Account(Listener):
    """Notes when jobs start and end. The account begins when it is made.

    now: clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self.now, self.begun = now, now()
        self.workers = 0  # most jobs that ran at once
        self.ended = self.begun  # when the last job ended
        self.running_seconds = 0.0  # of all jobs together
        self.spent: defaultdict[str, float] = defaultdict(float)  # seconds by kind of work
        self._first_start: float | None = None
        self._starts: dict[str, float] = {}  # by key

    def start(self, job: Job) -> None:
        self._starts[job.key] = self.now()
        if self._first_start is None:
            self._first_start = self.now()
        self.workers = max(self.workers, len(self._starts))

    def finish(self, job: Job, records: Sequence[Record], settled: int, total: int) -> None:
        if job.key not in self._starts:
            return
        self.ended = self.now()
        seconds = self.ended - self._starts.pop(job.key)
        self.running_seconds += seconds
        whole = sum(record["seconds"] for record in records)
        share = min(1.0, seconds / whole) if whole else 0.0  # work of an earlier run is left out in proportion
        for record in records:
            spent = record["spent"]
            for kind, amount in {**spent, OTHER: max(0.0, record["seconds"] - sum(spent.values()))}.items():
                self.spent[kind] += amount * share

    def shares(self) -> dict[str, float]:
        """Return fractions of the workers' time, with sum 1; empty if nothing ran.

        Overhead is the time of a running job beyond its work, and all time before the first job. Idle is a worker
        without a job, because all open work waited for running jobs.
        """
        whole = (self.ended - self.begun) * self.workers
        if self._first_start is None or not whole:
            return {}
        before = (self._first_start - self.begun) * self.workers
        kinds = [*WORK, *sorted(self.spent.keys() - WORK.keys())]
        seconds = {WORK.get(kind, kind): self.spent[kind] for kind in kinds if self.spent.get(kind)}
        seconds[OVERHEAD] = before + self.running_seconds - sum(self.spent.values())
        seconds[IDLE] = max(0.0, whole - before - self.running_seconds)
        total = sum(seconds.values())
        return {name: amount / total for name, amount in seconds.items()}

    def summary(self) -> str | None:
        """Return one line for the end of `run`; None if nothing ran."""
        shares = self.shares()
        if not shares:
            return None
        work = sum(share for name, share in shares.items() if name not in (OVERHEAD, IDLE))
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        parts = ", ".join(f"{share:.0%} {name}" for name, share in shares.items() if share >= 0.005)
        return f"{format_duration(self.ended - self.begun)} on {workers}: {work:.0%} at work; {parts}"


def format_duration(seconds: float) -> str:
    """Return a duration to the precision that matters: 3.4 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
