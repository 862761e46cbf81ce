"""The worker's side of a run: the one Trainable that runs any item, and the results that it sends to the driver."""

import atexit
import gc
import json
import os
import shutil
import socket
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from tune_interpreg import packages, registry
from tune_interpreg.cluster.ray_internals import storage_of
from tune_interpreg.data.dataset import DataError
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.files import Refused, as_refused, raise_refused
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Item
from tune_interpreg.study.problems import describe_exception

packages.pin()  # Ray puts the driver's working folder first on a worker's path

ERROR_FILE = "error.txt"
KILLED = "the worker died without an exception (killed, or out of memory)"


def worker_config(item: Item, store: Store, device: str) -> dict[str, Any]:
    """Return a worker's configuration: plain values and absolute paths."""
    dumped, root = item.model_dump(mode="json"), item.recipe.data.root
    dumped["recipe"]["data"]["root"] = root and os.path.abspath(root)
    return {"item": dumped, "store": str(store.path), "driver": store.driver, "device": device}


class StudyTrainable(tune.Trainable):
    """Delegate to the Trainable that the item names, so that one worker can run any item after any other.

    Results may hold these keys in addition to the item's own metrics:

    - ``record``: the record of a finished item, as JSON
    - ``warning``: a message for the user
    - ``earlier``: reports of the epochs before an interruption, as JSON
    - ``spent``: seconds per kind of work so far, as JSON
    - ``refused``: why the store accepts no more files; ends the run, and does not count against the item
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._config, self._store = config, Store(config["store"], config.get("driver"))
        self._inner: tune.Trainable | None = None

    def step(self) -> dict[str, Any]:
        try:
            with raise_refused(self._store.path):
                return self._step(Item.model_validate(self._config["item"]), self._store)
        except Refused as refused:
            return {"refused": str(refused), "done": True}

    def _step(self, item: Item, store: Store) -> dict[str, Any]:
        """Run the item's next step. Leaves a line on an exception, and its traceback, where the driver finds them."""
        try:
            trainable = self._trainable(item, store)
            result = dict(trainable.step())
            _error_file(store, item).unlink(missing_ok=True)
        except Exception as error:
            if not as_refused(error, store.path):
                message = describe_exception(error, *registry.plugin_modules(*item.recipe.registered))
                store.write_text(_error_file(store, item), f"{message}\n{traceback.format_exc()}")
            raise
        for name in ("earlier", "spent"):
            if value := getattr(trainable, name, None):
                result[name] = json.dumps(value)
        if warning := getattr(trainable, "warning", None):
            result["warning"] = warning
        trainable.warning = trainable.earlier = None
        return result

    def _trainable(self, item: Item, store: Store) -> tune.Trainable:
        """Return the item's own Trainable, made in the first step: in ``setup``, Tune may still move the trial."""
        if self._inner is None:
            is_stage = item.role in ("targets", "checks")
            kind = registry.resolve("stages", item.role) if is_stage else registry.load_method(item.recipe.method)
            if store.driver is not None and not (store.read_driver() and os.access(store.path, os.W_OK)):
                raise Refused(
                    f"{store.path}: {socket.gethostname()} sees no store there that it can write; "
                    "name a folder with --store that all machines share"
                )
            store.record_worker(item.key)
            try:
                self._inner = kind(self._config, storage=storage_of(self))
            except DataError as error:  # this machine lacks data that the driver could read
                raise Refused(f"on {socket.gethostname()}: {error}") from None
        return self._inner

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        if self._inner is not None:
            self._inner.cleanup()
            if storage_of(self) is None:
                shutil.rmtree(self._inner.logdir, ignore_errors=True)
            self._inner = None
            gc.collect()  # a trial sits in reference cycles, and the collector does not count the memory of its tensors
            _freeze_libraries()


@cache
def _freeze_libraries() -> None:
    """Exclude a million objects of libraries from garbage collection, which would cost a sweep 0.1 s per trial."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # otherwise libraries complain at exit about objects that were not freed


def _error_file(store: Store, item: Item) -> Path:
    return store.checkpoint_dir(item.key) / ERROR_FILE


def read_error(store: Store, item: Item) -> str:
    """Return why an item was given up: a line on its worker's last exception, then the traceback."""
    path = _error_file(store, item)
    if not path.exists():
        return KILLED
    return path.read_text(encoding="utf-8", errors="replace").strip() or "no reason was written"


# ------------------------------------------------------------ the driver's side of a result
def record_result(dispatcher: Dispatcher, item: Item, result: Mapping[str, Any]) -> bool:
    """Pass the result of a worker's step to the dispatcher. Raises ``Refused`` if the worker could not write.

    Returns whether the item is settled now, by its record or by its arm's pruner.
    """
    if "warning" in result:
        dispatcher.say(result["warning"])
    if "refused" in result:
        raise Refused(result["refused"])
    pruned = dispatcher.epoch(item, *_epoch_reports(result))
    if pruned:
        spent = json.loads(result.get("spent", "{}"))
        dispatcher.prune(item, pruned, seconds=sum(spent.values()), spent=spent)
    elif "record" in result:
        dispatcher.finish(item, json.loads(result["record"]))
    return pruned is not None or "record" in result


def _epoch_reports(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the reports of epochs in a result, in order. The result with the record reports no epoch of its own.

    A report holds the metrics, which have a slash in their names, and counters. Tune adds ``config/``.
    """
    reports = json.loads(result.get("earlier", "[]"))
    if "record" in result:
        return reports
    names = [name for name in result if "/" in name or name in ("epoch", "of", "maps")]
    return [*reports, {name: result[name] for name in names if not name.startswith("config/")}]
