"""Adapters between the dispatcher and Ray Tune: one Tune run drains the whole graph of arms.

Tune's own search, restore and loggers are not used: the searcher hands out the dispatcher's items, the
scheduler asks it whether to stop a trial, and the store keeps what has to last.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import socket
import traceback
from collections import Counter, deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune_interpreg import registry
from tune_interpreg.cluster import nodes
from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.data.dataset import DataError
from tune_interpreg.display import lines as display
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.store import places
from tune_interpreg.store.storage import Refused, refusal
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Item

ERROR_FILE = "error.txt"

#: How many words of a long reason are told.
REASON = 100

#: How often an item that raises is started again before it is given up, and how often one whose worker was killed, by
#: the system or by whoever wants the machine back. An epoch that is done in between begins both counts anew.
RETRIES, REVIVALS = 2, 8

KILLED = "the worker died without an exception (killed, or out of memory)"


def configuration(item: Item, store: Store, device: str) -> dict[str, Any]:
    """What a worker is told: plain values and absolute paths."""
    told, root = item.model_dump(mode="json"), item.recipe.data.root
    told["recipe"]["data"]["root"] = root and os.path.abspath(root)
    return {"item": told, "store": str(store.path), "driver": store.driver, "device": device}


class StudyTrainable(tune.Trainable):
    """Hands over to the Trainable that the item names, so that one worker can run any item after any other.

    It does so with the first step, not before: Tune may set a worker up for a trial that another one, free in
    the meantime, then runs.

    A result may say more than the item's own: ``warning`` is for the user; ``earlier`` are the epochs before an
    interruption, and ``spent`` what the item took so far, both in JSON; ``refused`` says why the store takes nothing
    more, which no retry mends and which says nothing against the item.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._config = config
        self._inner: tune.Trainable | None = None

    def step(self) -> dict[str, Any]:
        folder = Path(self._config["store"])
        try:
            return self._step()
        except Exception as error:
            if refused := refusal(error, folder):
                return {"refused": str(refused), "done": True}
            try:
                self._note_error()
            except Exception as another:
                if refused := refusal(another, folder):
                    return {"refused": str(refused), "done": True}
            raise

    def _step(self) -> dict[str, Any]:
        worker = self._worker()
        result = worker.step()
        self._error_file.unlink(missing_ok=True)
        told = {name: json.dumps(one) for name in ("earlier", "spent") if (one := getattr(worker, name, None))}
        if warning := getattr(worker, "warning", None):
            told["warning"] = warning
        worker.warning = worker.earlier = None
        return result | told

    def _worker(self) -> tune.Trainable:
        if self._inner is None:
            item = Item.model_validate(self._config["item"])
            stage, method = item.role in ("targets", "checks"), item.recipe.method
            kind = registry.resolve("stages", item.role) if stage else registry.method(method)
            store = Store(self._config["store"], self._config.get("driver"))
            _check_shared(store)
            places.note(store, item.key)
            try:
                self._inner = kind(self._config, storage=self._storage)
            except DataError as error:  # the driver has read the same data
                raise Refused(f"on {socket.gethostname()}: {error}") from None
        return self._inner

    def _note_error(self) -> None:
        """Leave the traceback where the driver finds it, should Tune give the trial up."""
        store = Store(self._config["store"], self._config.get("driver"))
        store.write_text(self._error_file, traceback.format_exc())

    @property
    def _error_file(self) -> Path:
        item = Item.model_validate(self._config["item"])
        return Store(self._config["store"]).checkpoint_dir(item.key) / ERROR_FILE

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        if self._inner is not None:
            self._inner.cleanup()
            if self._storage is None:
                shutil.rmtree(self._inner.logdir, ignore_errors=True)
            self._inner = None
            gc.collect()  # a trial holds itself in cycles, and its tensors are nothing that the collector counts
            _set_libraries_aside()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._worker().save_checkpoint(checkpoint_dir)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        self._worker().load_checkpoint(checkpoint_dir)


def _check_shared(store: Store) -> None:
    """Raise ``Refused`` where this machine does not see the folder that the driver signed, or may not write there."""
    if store.driver is not None and not (store.signed() and os.access(store.path, os.W_OK)):
        raise Refused(
            f"{store.path}: {socket.gethostname()} sees no store there that it can write; "
            "name a folder with --store that all machines share"
        )


@cache
def _set_libraries_aside() -> None:
    """Once a process: what outlives its first trial, a million objects of libraries, is not collected again.

    Looking through it takes a tenth of a second, which a sweep would spend on each of its trials.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # else libraries complain of what they see left over


def last_error(store: Store, item: Item) -> str:
    """Why an item was given up, as its worker noted it: the exception, then the traceback."""
    path = store.checkpoint_dir(item.key) / ERROR_FILE
    if not path.exists():
        return KILLED
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return f"{(text.splitlines() or ['no reason was noted'])[-1]}\n{text}"


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
        return configuration(item, self.dispatcher.store, self.device)

    def _next(self) -> Item | Pause:
        return self._again.popleft() if self._again else self.dispatcher.next()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        item = self.items.pop(trial_id, None)
        if item is None or self.failure:  # where a run ends early, the rest goes on next time
            return
        try:
            if error:
                self._retry(item, self.errors.pop(trial_id, None))
            elif not take(self.dispatcher, item, result or {}):
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
            self.dispatcher.fail(item, KILLED if killed else last_error(self.dispatcher.store, item))
        else:
            raise ClusterError(f"no worker can be started: {' '.join(str(error).split()[:REASON])}")

    def epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take an epoch's result; whether its arm's pruner gives the trial up, which is settled then."""
        item = self.items[trial_id]
        for killed in (True, False):
            self._failures.pop((item.key, killed), None)
        settled = take(self.dispatcher, item, result)
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


def take(dispatcher: Dispatcher, item: Item, result: Mapping[str, Any]) -> bool:
    """Take what a worker tells after a step; whether its item is settled now, at its end or by its arm's pruner.

    Raises ``Refused`` where the worker could not write.
    """
    if "warning" in result:
        dispatcher.say(result["warning"])
    if "refused" in result:
        raise Refused(result["refused"])
    if pruned := dispatcher.epoch(item, *_reports(result)):
        spent = json.loads(result.get("spent", "{}"))
        dispatcher.prune(item, pruned, seconds=sum(spent.values()), spent=spent)
    elif "record" in result:
        dispatcher.finish(item, json.loads(result["record"]))
    return pruned is not None or "record" in result


def _reports(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """The epochs that a result tells of, in order; the last of a trial is its end, which no pruner is asked about."""
    own = [] if "record" in result else [_numbers(result)]
    return [*json.loads(result.get("earlier", "[]")), *own]


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The trial's own metrics in a Tune result: those with a slash in their name, the epoch, and of how many it is.

    Tune adds to it the trial's configuration, and puts a slash between its levels.
    """
    own = {name: value for name, value in result.items() if not name.startswith("config/")}
    return {name: value for name, value in own.items() if "/" in name or name in ("epoch", "of", "maps")}
