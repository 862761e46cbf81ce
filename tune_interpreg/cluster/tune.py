"""Adapters between the dispatcher and Ray Tune: one Tune run drains the whole graph of arms.

Tune's own search, restore and loggers are not used: the searcher hands out the dispatcher's items, the
scheduler asks it whether to stop a trial, and the store keeps what has to last.
"""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune_interpreg.cluster import nodes
from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.cluster.worker import KILLED, read_error, record_result, worker_config
from tune_interpreg.display import lines as display
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.study.items import Item

#: How many words of a long reason are told.
REASON = 100

#: How often an item that raises is started again before it is given up, and how often one whose worker was killed, by
#: the system or by whoever wants the machine back. An epoch that is done in between begins both counts anew.
RETRIES, REVIVALS = 2, 8


class GraphSearcher(Searcher):
    """Tune's searcher over the graph: the next ready item, nothing while all wait, FINISHED at the end.

    It hands out no more than the nodes hold just then, and starts failed items again itself: to Tune, each attempt is a
    trial of its own. Tune logs what a searcher raises and goes on without it; ``failure`` keeps it, and ends the run.
    """

    def __init__(self, dispatcher: Dispatcher, device: str):
        super().__init__()
        self.dispatcher, self.device = dispatcher, device
        self.nodes = nodes.Nodes(dispatcher.study.resources, dispatcher.say)
        self.items: dict[str, Item] = {}
        self.errors: dict[str, Exception | None] = {}
        self.failure: Exception | None = None
        self._again: deque[Item] = deque()
        self._failures: Counter[tuple[str, bool]] = Counter()  # by key, and whether the worker was killed

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self.failure and len(self.items) >= self.nodes.room():
            return None
        try:
            item = Pause.DRAINED if self.failure else self._next()
        except Exception as error:
            self.failure = error
            return Searcher.FINISHED
        if isinstance(item, Pause):
            return None if item is Pause.WAIT else Searcher.FINISHED
        self.items[trial_id] = item
        return worker_config(item, self.dispatcher.store, self.device)

    def _next(self) -> Item | Pause:
        return self._again.popleft() if self._again else self.dispatcher.next()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        item = self.items.pop(trial_id, None)
        if item is None or self.failure:  # where a run ends early, the rest goes on next time
            return
        try:
            if error:
                self._retry(item, self.errors.pop(trial_id, None))
            elif not record_result(self.dispatcher, item, result or {}):
                raise RuntimeError(f"{display.name(item)}: Tune ended it without a result")
        except Exception as failure:
            self.failure = failure

    def _retry(self, item: Item, error: Exception | None) -> None:
        """Start the item again after its worker's end, which counts against it unless the whole node is gone.

        A worker that died after it had written its record, and before it told so, has done its work.
        """
        if self.dispatcher.recover(item):
            return
        killed = isinstance(error, RayActorError) and not error.actor_init_failed
        if nodes.took(error):
            self.dispatcher.say(f"{display.name(item)}: lost its node, goes on elsewhere from its last checkpoint")
        else:
            self._failures[item.key, killed] += 1
        if self._failures[item.key, killed] <= (REVIVALS if killed else RETRIES):
            self._again.append(item)
        elif killed or isinstance(error, RayTaskError):
            self.dispatcher.fail(item, KILLED if killed else read_error(self.dispatcher.store, item))
        else:
            raise ClusterError(f"no worker can be started: {' '.join(str(error).split()[:REASON])}")

    def epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take an epoch's result; whether its arm's pruner gives the trial up, which is settled then."""
        item = self.items[trial_id]
        for killed in (True, False):
            self._failures.pop((item.key, killed), None)
        settled = record_result(self.dispatcher, item, result)
        if settled:
            del self.items[trial_id]
        return settled

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore that is never used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshots hold nothing of ours: the store does."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a study goes on by running it again, not by Tune's restore")


class GraphScheduler(FIFOScheduler):
    """Starts trials in the searcher's order and stops those that their arm's pruner gives up."""

    def __init__(self, searcher: GraphSearcher):
        super().__init__()
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """No trial before others: Tune starts them in their order anyway.

        Else it would give each worker that gets free to the trial that waits for a new one to start, and drop that one:
        where trials are shorter than such a start, a node that joins would never get to work.
        """

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._searcher.errors[trial.trial_id] = _error(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if self._searcher.failure:
            return TrialScheduler.STOP
        stop = trial.trial_id in self._searcher.items and self._searcher.epoch(trial.trial_id, result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


def _error(trial: Any) -> Exception:
    """What ended a trial, as Tune has just noted it."""
    if trial.pickled_error_file:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    return RuntimeError(text.partition("\n")[2] or "Tune noted no reason")  # below a line of its own
