"""Where a study runs: in this process, on a local Ray, or on a cluster at an address. The same code either way."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray import tune

from tune_interpreg import stopping
from tune_interpreg.cluster import connection, nodes, pulse, travel
from tune_interpreg.cluster.tune import RETRIES, GraphScheduler, GraphSearcher
from tune_interpreg.cluster.worker import StudyTrainable, read_error, record_result, worker_config
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.stopping import Stop
from tune_interpreg.store.storage import Refused, refusing
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item

#: What Ray and Tune read from the environment; set unless the user has.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_prestart_worker_first_driver": "0",  # ray.init waits for these workers, for ever if one dies as it starts
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a worker that died goes on; what is given up, the dispatcher tells
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours also hears SIGTERM, and limits the time that stopping takes
}

#: More trials at once than any cluster holds: the searcher itself keeps to what the nodes hold.
ANY_NUMBER = 10**6


def drain(dispatcher: Dispatcher, where: str) -> Stop:
    """Run all that the study has left; returns when nothing is open, or after Ctrl-C or SIGTERM, and which it was.

    The first lets each trial finish the epoch's checkpoint that it writes; a second one leaves at once, and so loses no
    more than the epoch under way.

    where: ``in-process``, ``local`` (Ray on this machine) or the address of a Ray cluster (``auto`` finds it).
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    device = "cuda" if dispatcher.study.resources.gpus else "cpu"
    if where == "in-process":
        with stopping.listen_for_stops() as stop:
            _in_process(dispatcher, device, stop)
        return stop
    _connect(dispatcher.study, where)
    try:
        # Ray installs its own signal handlers as it starts: install ours after that.
        with stopping.listen_for_stops() as stop, suppress(KeyboardInterrupt):
            _tune(dispatcher, device, stop)
    finally:
        ray.shutdown()
    return stop


def count_slots(study: Study, where: str) -> int:
    """How many trials run at once there; raises ``ClusterError`` where there is no room for one.

    On this machine it is told without starting Ray, by what Ray would find.
    """
    if where == "in-process":
        return 1
    if where == "local":
        return nodes.together([nodes.here()], study.resources)
    _connect(study, where)
    try:
        return nodes.together(nodes.living(), study.resources)
    finally:
        ray.shutdown()


# ---------------------------------------------------------------- in this process
def _in_process(dispatcher: Dispatcher, device: str, stop: Stop) -> None:
    """One item after another, without a cluster."""
    torch.set_num_threads(max(1, math.floor(dispatcher.study.resources.cpus)))
    with suppress(KeyboardInterrupt):
        while not isinstance(item := dispatcher.next(), Pause):
            _attempt(dispatcher, item, worker_config(item, dispatcher.store, device), stop)


def _attempt(dispatcher: Dispatcher, item: Item, config: dict[str, Any], stop: Stop) -> None:
    """Run an item to its end: with a new worker where one raises, ``RETRIES`` times since its last epoch."""
    failures = 0
    while failures <= RETRIES:
        with closing(_results(dispatcher.store.path, config)) as results:
            for result in results:
                failures = 0
                if record_result(dispatcher, item, result):
                    return
                stop.check()
        if dispatcher.recover(item):
            return
        failures += 1
    dispatcher.fail(item, read_error(dispatcher.store, item))


def _results(folder: Path, config: dict[str, Any]) -> Generator[dict[str, Any]]:
    """What a worker tells, step by step, until it raises; raises ``Refused`` where it cannot write."""
    trainable = None
    try:
        with refusing(folder):
            trainable = StudyTrainable(config)
            while True:
                yield trainable.step()
    except Refused:
        raise
    except Exception:  # it is noted
        return
    finally:
        if trainable is not None:
            trainable.cleanup()
            shutil.rmtree(trainable.logdir, ignore_errors=True)  # Tune's own folder for it, empty


# ------------------------------------------------------------------------- on Ray
def _connect(study: Study, where: str) -> None:
    if where == "local":
        connection.start()
        return
    with TemporaryDirectory() as scratch:  # Ray copies what lies there when it connects
        modules = travel.modules(travel.packages(study), Path(scratch))
        variables = {name: value for name, value in os.environ.items() if name in SETTINGS}
        connection.join(where, {"py_modules": modules, "excludes": list(travel.EXCLUDED), "env_vars": variables})


class _Asked(tune.Stopper):
    """Ends Tune's run where it was asked to stop; each trial first finishes its epoch."""

    def __init__(self, stop: Stop):
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.asked


def _this_node(node: str) -> dict[str, Any] | None:
    """What the cluster knows of the node, or None where it counts it as dead."""
    return next((one for one in ray.nodes() if one["NodeID"] == node and one["Alive"]), None)


@contextmanager
def _watched(stop: Stop) -> Iterator[None]:
    """Ends the process where Ray dies beneath it."""
    here = ray.get_runtime_context()
    this = partial(_this_node, here.get_node_id())
    raylet = (this() or {}).get("RayletSocketName", "")
    with pulse.watched(here.gcs_address, raylet, lambda: this() is not None, stop):
        yield


def _tune(dispatcher: Dispatcher, device: str, stop: Stop) -> None:
    resources = dispatcher.study.resources
    searcher = GraphSearcher(dispatcher, device)
    searcher.nodes.require()
    scratch = dispatcher.store.tune_dir
    nodes.tell_out_of_memory()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the dispatcher tells what fails, once it is given up
    tuner = tune.Tuner(
        tune.with_resources(StudyTrainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=GraphScheduler(searcher),
            num_samples=-1,
            max_concurrent_trials=ANY_NUMBER,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
            stop=_Asked(stop),
        ),
    )
    try:
        with stop.polled(), _watched(stop):
            tuner.fit()
    except Exception as error:
        raise searcher.failure or error from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if searcher.failure:
        raise searcher.failure
