"""The worker's side of a run: the one Trainable that runs any item, and the results that it sends to the driver."""

from __future__ import annotations

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

from tune_interpreg import registry
from tune_interpreg.cluster.ray_internals import storage_of
from tune_interpreg.data.dataset import DataError
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.files import Refused, as_refused
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Item

ERROR_FILE = "error.txt"

KILLED = "the worker died without an exception (killed, or out of memory)"


def worker_config(item: Item, store: Store, device: str) -> dict[str, Any]:
    """Return a worker's configuration: plain values and absolute paths."""
    dumped, root = item.model_dump(mode="json"), item.recipe.data.root
    dumped["recipe"]["data"]["root"] = root and os.path.abspath(root)
    return {"item": dumped, "store": str(store.path), "driver": store.driver, "device": device}


class StudyTrainable(tune.Trainable):
    """Delegate to the Trainable that the item names, so that one worker can run any item after any other.

    The item's Trainable is made in the first step, not in ``setup``: Tune may set a worker up for a trial and then give
    that trial to another worker that has become free.

    Results may hold these keys in addition to the item's own metrics:

    - ``record``: the record of a finished item, as JSON
    - ``warning``: a message for the user
    - ``earlier``: reports of the epochs before an interruption, as JSON
    - ``spent``: seconds per kind of work so far, as JSON
    - ``refused``: why the store accepts no more files; ends the run, and does not count against the item
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._config = config
        self._inner: tune.Trainable | None = None

    def step(self) -> dict[str, Any]:
        folder = Path(self._config["store"])
        try:
            return self._step()
        except Exception as error:
            if refused := as_refused(error, folder):
                return {"refused": str(refused), "done": True}
            try:
                self._save_error()
            except Exception as second_error:
                if refused := as_refused(second_error, folder):
                    return {"refused": str(refused), "done": True}
            raise

    def _step(self) -> dict[str, Any]:
        trainable = self._trainable()
        result = dict(trainable.step())
        self._error_file.unlink(missing_ok=True)
        for name in ("earlier", "spent"):
            if value := getattr(trainable, name, None):
                result[name] = json.dumps(value)
        if warning := getattr(trainable, "warning", None):
            result["warning"] = warning
        trainable.warning = trainable.earlier = None
        return result

    def _trainable(self) -> tune.Trainable:
        """Return the item's own Trainable, made at the first call."""
        if self._inner is None:
            item = self._item
            is_stage = item.role in ("targets", "checks")
            kind = registry.resolve("stages", item.role) if is_stage else registry.load_method(item.recipe.method)
            store = Store(self._config["store"], self._config.get("driver"))
            _check_shared(store)
            store.record_worker(item.key)
            try:
                self._inner = kind(self._config, storage=storage_of(self))
            except DataError as error:  # this machine lacks data that the driver could read
                raise Refused(f"on {socket.gethostname()}: {error}") from None
        return self._inner

    @property
    def _item(self) -> Item:
        return Item.model_validate(self._config["item"])

    @property
    def _error_file(self) -> Path:
        return _error_file(Store(self._config["store"]), self._item)

    def _save_error(self) -> None:
        """Write the traceback where the driver finds it if the item is given up."""
        store = Store(self._config["store"], self._config.get("driver"))
        store.write_text(self._error_file, traceback.format_exc())

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

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._trainable().save_checkpoint(checkpoint_dir)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        self._trainable().load_checkpoint(checkpoint_dir)


def _check_shared(store: Store) -> None:
    """Raise ``Refused`` if this machine does not see the driver's store, or may not write there."""
    if store.driver is not None and not (store.read_driver() and os.access(store.path, os.W_OK)):
        raise Refused(
            f"{store.path}: {socket.gethostname()} sees no store there that it can write; "
            "name a folder with --store that all machines share"
        )


@cache
def _freeze_libraries() -> None:
    """Exclude the objects of loaded libraries from garbage collection, once per process.

    There are a million of them. Scanning them costs 0.1 s, which a sweep would spend on each trial.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # otherwise libraries complain at exit about objects that were not freed


def _error_file(store: Store, item: Item) -> Path:
    return store.checkpoint_dir(item.key) / ERROR_FILE


def read_error(store: Store, item: Item) -> str:
    """Return why an item was given up: its worker's last exception, then the traceback."""
    path = _error_file(store, item)
    if not path.exists():
        return KILLED
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return f"{(text.splitlines() or ['no reason was written'])[-1]}\n{text}"


# ------------------------------------------------------------ the driver's side of a result
def record_result(dispatcher: Dispatcher, item: Item, result: Mapping[str, Any]) -> bool:
    """Pass the result of a worker's step to the dispatcher.

    Returns whether the item is settled now, by its record or by its arm's pruner.

    Raises ``Refused`` if the worker could not write to the store.
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
    """Return the reports of epochs in a result, in order. The result with the record reports no epoch of its own."""
    reports = json.loads(result.get("earlier", "[]"))
    return reports if "record" in result else [*reports, _metrics(result)]


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a trial's own metrics in a Tune result: names with a slash, and counters.

    Tune adds the trial's configuration, with a slash between its levels.
    """
    counters = ("epoch", "of", "maps")
    return {
        name: value
        for name, value in result.items()
        if ("/" in name or name in counters) and not name.startswith("config/")
    }
