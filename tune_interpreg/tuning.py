"""Adapters between the dispatcher and Ray Tune: one Tune run drains the whole graph of arms.

Tune's own search, restore and loggers are not used: the searcher hands out the dispatcher's items, the
scheduler asks it whether to stop a trial, and the store keeps what has to last.
"""

from __future__ import annotations

import gc
import json
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune_interpreg import registry
from tune_interpreg.dispatch import Dispatcher, Pause
from tune_interpreg.items import Item
from tune_interpreg.store import Store

ERROR_FILE = "error.txt"


def configuration(item: Item, store: Store, device: str) -> dict[str, Any]:
    """What a worker is told: plain values and absolute paths."""
    return {"item": item.model_dump(mode="json"), "store": str(store.path), "device": device}


class StudyTrainable(tune.Trainable):
    """Hands over to the Trainable that the item names, so that one worker can run any item after any other.

    It does so with the first step, not before: Tune may set a worker up for a trial that another one, free in
    the meantime, then runs.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._config = config
        self._inner: tune.Trainable | None = None

    def step(self) -> dict[str, Any]:
        try:
            return self._worker().step()
        except Exception:
            self._note_error()
            raise

    def _worker(self) -> tune.Trainable:
        if self._inner is None:
            item = Item.model_validate(self._config["item"])
            targets, method = item.role == "targets", item.recipe.method
            kind = registry.resolve("stages", "targets") if targets else registry.method(method)
            self._inner = kind(self._config, storage=self._storage)
        return self._inner

    def _note_error(self) -> None:
        """Leave the traceback where the driver finds it, should Tune give the trial up."""
        item = Item.model_validate(self._config["item"])
        errors = Store(self._config["store"]).checkpoint_dir(item.key) / ERROR_FILE
        Store.write_text(errors, traceback.format_exc())

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

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._worker().save_checkpoint(checkpoint_dir)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        self._worker().load_checkpoint(checkpoint_dir)


def last_error(store: Store, item: Item) -> str:
    """Why an item was given up, as its worker noted it: the exception, then the traceback."""
    path = store.checkpoint_dir(item.key) / ERROR_FILE
    if not path.exists():
        return "the worker died without an exception (killed, or out of memory)"
    text = path.read_text(encoding="utf-8").strip()
    return f"{text.splitlines()[-1]}\n{text}"


class GraphSearcher(Searcher):
    """Tune's searcher over the graph: the next ready item, nothing while all wait, FINISHED at the end.

    Tune logs what a searcher raises and goes on without it; ``failure`` keeps it, and ends the run.
    """

    def __init__(self, dispatcher: Dispatcher, device: str):
        super().__init__()
        self.dispatcher, self.device = dispatcher, device
        self.items: dict[str, Item] = {}
        self.failure: Exception | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            item = Pause.DRAINED if self.failure else self.dispatcher.next()
        except Exception as error:
            self.failure = error
            return Searcher.FINISHED
        if isinstance(item, Pause):
            return None if item is Pause.WAIT else Searcher.FINISHED
        self.items[trial_id] = item
        return configuration(item, self.dispatcher.store, self.device)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        item = self.items.pop(trial_id, None)
        if item is None:
            return
        try:
            self._settle(item, result if not error else None)
        except Exception as failure:
            self.failure = failure

    def _settle(self, item: Item, result: dict[str, Any] | None) -> None:
        if result is None:
            self.dispatcher.fail(item, last_error(self.dispatcher.store, item))
        elif "record" in result:
            self.dispatcher.finish(item, json.loads(result["record"]))
        else:
            self.dispatcher.prune(item, numbers(result))

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

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        item = self._searcher.items.get(trial.trial_id)
        stop = item is not None and self._searcher.dispatcher.epoch(item, numbers(result))
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The trial's own metrics in a Tune result: those with a slash in their name, and the epoch."""
    return {name: value for name, value in result.items() if "/" in name or name in ("epoch", "maps")}
