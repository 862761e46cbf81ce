"""Where a study runs: in this process, on a local Ray, or on a cluster at an address. The same code either way."""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import suppress
from typing import Any

import ray
import torch
from ray import tune

from tune_interpreg import stopping
from tune_interpreg.config import Resources
from tune_interpreg.dispatch import Dispatcher, Pause
from tune_interpreg.items import Item
from tune_interpreg.stopping import Stop
from tune_interpreg.tuning import (
    GraphScheduler,
    GraphSearcher,
    StudyTrainable,
    configuration,
    last_error,
    numbers,
)

#: How often an item that raises, or whose worker dies, is started again before it is given up.
RETRIES = 2

#: What Ray and Tune read from the environment; set unless the user has.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
}


class ClusterError(RuntimeError):
    """No place to run: an address without a cluster, or a cluster without the resources that a trial needs."""


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
        with stopping.heard() as stop:
            _in_process(dispatcher, device, stop)
        return stop
    _connect(where)
    try:
        with stopping.heard() as stop, suppress(KeyboardInterrupt):  # Ray has a handler of its own until here
            _tune(dispatcher, device)
    finally:
        ray.shutdown()
    return stop


# ---------------------------------------------------------------- in this process
def _in_process(dispatcher: Dispatcher, device: str, stop: Stop) -> None:
    """One item after another, without a cluster."""
    torch.set_num_threads(max(1, math.floor(dispatcher.study.resources.cpus)))
    with suppress(KeyboardInterrupt):
        while not isinstance(item := dispatcher.next(), Pause):
            _attempt(dispatcher, item, configuration(item, dispatcher.store, device), stop)


def _attempt(dispatcher: Dispatcher, item: Item, config: dict[str, Any], stop: Stop) -> None:
    for _ in range(1 + RETRIES):
        try:
            _run(dispatcher, item, StudyTrainable(config), stop)
            return
        except Exception:
            continue
    dispatcher.fail(item, last_error(dispatcher.store, item))


def _run(dispatcher: Dispatcher, item: Item, trainable: StudyTrainable, stop: Stop) -> None:
    try:
        while "record" not in (result := trainable.step()):
            stop.check()
            if dispatcher.epoch(item, numbers(result)):
                dispatcher.prune(item, numbers(result))
                return
        dispatcher.finish(item, json.loads(result["record"]))
    finally:
        trainable.cleanup()
        shutil.rmtree(trainable.logdir, ignore_errors=True)  # Tune's own folder for it, empty


# ------------------------------------------------------------------------- on Ray
def _connect(where: str) -> None:
    address = "local" if where == "local" else where
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 256 * 2**20}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            **(local if address == "local" else {}),
        )
    except ConnectionError as error:
        raise ClusterError(
            f"--cluster {where}: no Ray cluster answers there ({error}). Start one with `ray start --head`, "
            "give its address, or use --cluster local"
        ) from None


def _tune(dispatcher: Dispatcher, device: str) -> None:
    resources = dispatcher.study.resources
    _require(resources)
    searcher = GraphSearcher(dispatcher, device)
    scratch = dispatcher.store.path / ".tune"
    tuner = tune.Tuner(
        tune.with_resources(StudyTrainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=GraphScheduler(searcher),
            num_samples=-1,
            max_concurrent_trials=_concurrent(resources),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if searcher.failure:
        raise searcher.failure


def _require(resources: Resources) -> None:
    """Refuse a request that no node can meet."""
    asked = {"CPU": resources.cpus, "GPU": resources.gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise ClusterError(
            f"resources: a trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, but no node has them "
            f"(nodes: {there}); lower resources in the study, or --set resources.gpus=0"
        )


def _concurrent(resources: Resources) -> int:
    """How many trials the cluster holds at once."""
    whole = ray.cluster_resources()
    asked = {"CPU": resources.cpus, "GPU": resources.gpus}
    return max(1, min(math.floor(whole.get(name, 0) / amount) for name, amount in asked.items() if amount))
