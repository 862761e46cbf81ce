"""The worker's side of a run: the one Trainable that runs any job. `results.py` reads what it reports."""

import atexit
import gc
import json
import os
import shutil
import socket
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from tune_interpreg import packages, registry
from tune_interpreg.cluster.ray_internals import storage_of
from tune_interpreg.data.dataset import DataError
from tune_interpreg.store.files import Refused, as_refused, raise_refused
from tune_interpreg.store.store import FINAL, Record, Store
from tune_interpreg.study.items import Job, Judge, Maps
from tune_interpreg.study.problems import describe_exception

packages.pin()  # Ray puts the driver's working folder first on a worker's path

ERROR_FILE = "error.txt"
KILLED = "the worker died without an exception (killed, or out of memory)"


def worker_config(job: Job, store: Store, device: str) -> dict[str, Any]:
    """Return a worker's configuration: plain values and absolute paths."""
    dumped, root = job.model_dump(mode="json"), job.recipe.data.root
    for model in (*dumped["models"], *(dumped["maps"]["models"] if job.maps else ())):
        model["recipe"]["data"]["root"] = root and os.path.abspath(root)
    return {"job": dumped, "store": str(store.path), "driver": store.driver, "device": device}


class StudyTrainable(tune.Trainable):
    """Run a job: its trainings by the Trainable of their method, then its maps or judgments.

    One worker can run any job after any other. Results may hold these keys in addition to metrics:

    - ``records``: the records of finished items, as JSON
    - ``warning``: a message for the user
    - ``earlier``: reports of the epochs before an interruption, as JSON
    - ``spent``: seconds per kind of work so far, as JSON
    - ``refused``: why the store accepts no more files; ends the run, and does not count against the job
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._config, self._store = config, Store(config["store"], config.get("driver"))
        self._inner: tune.Trainable | None = None
        self._open: Job | None = None  # what is left of the job

    def step(self) -> dict[str, Any]:
        try:
            with raise_refused(self._store.path):
                return self._step(self._store)
        except Refused as refused:
            return {"refused": str(refused), "done": True}

    def _step(self, store: Store) -> dict[str, Any]:
        """Run the job's next step. Leaves a line on an exception, and its traceback, where the driver finds them."""
        job = Job.model_validate(self._config["job"])
        try:
            if self._open is None:
                self._check_store(store)
                store.record_worker(job.key)
                self._open, records = skip_recorded(job, store)
                if not self._open.items:  # an earlier worker wrote the last record and died before it reported
                    return {"records": json.dumps(records), "done": True}
            maps = open_maps(self._open, store)
            trainable = self._trainable(maps or self._open)
            result = dict(trainable.step())
            _error_file(store, job).unlink(missing_ok=True)
        except Exception as error:
            if not as_refused(error, store.path):
                message = describe_exception(error, *registry.plugin_modules(*job.recipe.registered))
                store.write_text(_error_file(store, job), f"{message}\n{traceback.format_exc()}")
            raise
        for name in ("earlier", "spent"):
            if value := getattr(trainable, name, None):
                result[name] = json.dumps(value)
        if warning := getattr(trainable, "warning", None):
            result["warning"] = warning
        trainable.warning = trainable.earlier = None
        if maps is not None:
            if result.get("done"):
                self._end_inner()
            return {name: result[name] for name in ("records", "warning") if name in result} | {"done": False}
        if result.get("done"):
            self._open, _ = skip_recorded(self._open, store)
            result["done"] = not self._open.items
            self._end_inner()
        return result

    def _check_store(self, store: Store) -> None:
        if store.driver is not None and not (store.read_driver() and os.access(store.path, os.W_OK)):
            raise Refused(
                f"{store.path}: {socket.gethostname()} sees no store there that it can write; "
                "name a folder with --store that all machines share"
            )

    def _trainable(self, job: Job) -> tune.Trainable:
        """Return the Trainable of the job's next items, made in a step: in ``setup``, Tune may still move the trial."""
        if self._inner is None:
            if job.trains:
                kind = registry.load_method(job.recipe.method)
            else:
                kind = registry.resolve("stages", "maps" if isinstance(job.work[0], Maps) else "judge")
            config = self._config | worker_config(job, self._store, self._config["device"])
            try:
                self._inner = kind(config, storage=storage_of(self))
            except DataError as error:  # this machine lacks data that the driver could read
                raise Refused(f"on {socket.gethostname()}: {error}") from None
        return self._inner

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._end_inner()

    def _end_inner(self) -> None:
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


def skip_recorded(job: Job, store: Store) -> tuple[Job, list[Record]]:
    """Return what is left of a job, and the records of what is not: finished, and judgments of diverged models."""
    on_disk = [store.read_record(job.arm, item) for item in job.items]
    records = [record for record in on_disk if record is not None and record["state"] in FINAL]
    states = {record["key"]: record["state"] for record in records}
    if job.trains and any(model.key not in states for model in job.models):
        return job, []  # trainings of one job start and end together
    diverged = {key for key, state in states.items() if state == "diverged"}
    work = [item for item in job.work if item.key not in states and not (_reads(item) & diverged)]
    return job.model_copy(update={"trains": False, "work": tuple(work)}), records


def open_maps(job: Job, store: Store) -> Job | None:
    """Return the job of the maps that a training waits for; None if there are none, or if they are there.

    Raises ``RuntimeError`` if they cannot be made.
    """
    if job.maps is None or not job.trains:
        return None
    left, records = skip_recorded(job.maps, store)
    for record in records:
        if record["state"] != "done":
            raise RuntimeError(f"its target maps cannot be made: {record['error']}")
    return left if left.items else None


def _reads(item: Maps | Judge) -> set[str]:
    return {item.teacher if isinstance(item, Maps) else item.model}


def _error_file(store: Store, job: Job) -> Path:
    return store.checkpoint_dir(job.key) / ERROR_FILE


def read_error(store: Store, job: Job) -> str:
    """Return why an item was given up: a line on its worker's last exception, then the traceback."""
    path = _error_file(store, job)
    if not path.exists():
        return KILLED
    return path.read_text(encoding="utf-8", errors="replace").strip() or "no reason was written"
