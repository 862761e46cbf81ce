"""Adapters between the dispatcher and Ray Tune: one Tune run drains the whole graph of arms (see README.md)."""

import logging
from collections import Counter, deque
from pathlib import Path
from textwrap import shorten
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune_interpreg.cluster import nodes
from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.cluster.results import record_result
from tune_interpreg.cluster.worker import KILLED, read_error, worker_config
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.study.items import Job

logger = logging.getLogger(__name__)

#: Restarts before a job fails that raises, or that loses its worker. A finished epoch resets both counts.
RETRIES, REVIVALS = 2, 8


class GraphSearcher(Searcher):
    """Tune's searcher over the graph: the next ready job, None while all wait, FINISHED at the end.

    It hands out no more jobs than the nodes have room for, and restarts failed jobs itself: Tune sees each attempt as
    one trial. Tune only logs an exception of its searcher, so it is kept in ``failure``, which ends the run.
    """

    def __init__(self, dispatcher: Dispatcher, device: str):
        super().__init__()
        self.dispatcher, self.device = dispatcher, device
        self.slots = nodes.Slots(dispatcher.study.resources, dispatcher.say)
        self.jobs: dict[str, Job] = {}  # by trial_id
        self.errors: dict[str, Exception] = {}  # by trial_id
        self.failure: Exception | None = None
        self._left = 0  # trials of this turn
        self._restarts: deque[Job] = deque()
        self._raised: Counter[str] = Counter()  # by key
        self._killed: Counter[str] = Counter()  # by key

    def start_turn(self, trials: int) -> None:
        """Allow so many trials to the next run of Tune."""
        self._left = trials

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.failure or self._left == 0:
            return Searcher.FINISHED
        if not self.slots.has_room(self.jobs.values()):
            return None
        try:
            job = self.next_job()
        except Exception as error:
            self.failure = error
            return Searcher.FINISHED
        if isinstance(job, Pause):
            return None if job is Pause.WAIT else Searcher.FINISHED
        self._left -= 1
        self.jobs[trial_id] = job
        return worker_config(job, self.dispatcher.store, self.device)

    def next_job(self) -> Job | Pause:
        """Return a job to restart, else the dispatcher's next one."""
        return self._restarts.popleft() if self._restarts else self.dispatcher.next()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self.jobs.pop(trial_id, None)
        if job is None or self.failure:  # when a run ends early, the next run continues its items
            return
        try:
            if error:
                self._restart_or_fail(job, self.errors.pop(trial_id, None))
            elif not record_result(self.dispatcher, job, result or {}):
                raise RuntimeError(f"{job.title}: Tune ended it without a result")
        except Exception as failure:
            self.failure = failure

    def _restart_or_fail(self, job: Job, error: Exception | None) -> None:
        """Restart a job after its worker's end, unless it has used up its restarts. A lost node does not count."""
        if self.dispatcher.recover(job):  # the worker died after it wrote the record
            return
        if nodes.is_node_lost(error):
            self.dispatcher.say(f"{job.title}: lost its node, continues elsewhere from its last checkpoint")
            self._restarts.append(job)
            return
        was_killed = isinstance(error, RayActorError) and not error.actor_init_failed
        counts, limit = (self._killed, REVIVALS) if was_killed else (self._raised, RETRIES)
        counts[job.key] += 1
        reason = KILLED if was_killed else read_error(self.dispatcher.store, job)
        if counts[job.key] <= limit:
            logger.warning("%s: restart %d of %d: %s", job.title, counts[job.key], limit, reason)
            self._restarts.append(job)
        elif was_killed or isinstance(error, RayTaskError):
            self.dispatcher.fail(job, reason)
        else:
            raise ClusterError(f"no worker can be started: {shorten(str(error), 800)}")

    def record_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record an epoch's result. Returns whether the job is settled now: its arm's pruner may stop the trial."""
        job = self.jobs[trial_id]
        self._raised.pop(job.key, None)
        self._killed.pop(job.key, None)
        if is_settled := record_result(self.dispatcher, job, result):
            del self.jobs[trial_id]
        return is_settled

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that is never used

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # Tune requires a file; the state is in the store


class GraphScheduler(FIFOScheduler):
    """Start trials in the searcher's order, and stop those that their arm's pruner rejects."""

    def __init__(self, searcher: GraphSearcher):
        super().__init__()
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Prefer no trial: Tune starts them in their order anyway.

        Otherwise Tune gives a free worker to the trial for which a new worker starts, and drops that worker. If trials
        are shorter than this start, a node that joins never gets work.
        """

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._searcher.errors[trial.trial_id] = _read_trial_error(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if self._searcher.failure:
            return TrialScheduler.STOP
        is_open = trial.trial_id in self._searcher.jobs
        is_settled = is_open and self._searcher.record_epoch(trial.trial_id, result)
        return TrialScheduler.STOP if is_settled else TrialScheduler.CONTINUE


def _read_trial_error(trial: Any) -> Exception:
    """Return the exception that ended a trial, from the file that Tune has just written."""
    if trial.pickled_error_file:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    return RuntimeError(text.partition("\n")[2] or "Tune gave no reason")  # the first line is Tune's heading
