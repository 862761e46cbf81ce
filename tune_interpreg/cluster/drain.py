"""Run all open jobs of a study: in this process, on a local Ray, or on a cluster, with the same code."""

import gc
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray import tune

from tune_interpreg import stopping
from tune_interpreg.cluster import connection, local, nodes, ray_internals, runtime_env
from tune_interpreg.cluster.connection import SETTINGS
from tune_interpreg.cluster.environment import drop_tune_variables
from tune_interpreg.cluster.results import record_result
from tune_interpreg.cluster.tune import RETRIES, GraphScheduler, GraphSearcher
from tune_interpreg.cluster.watchdog import watch_cluster
from tune_interpreg.cluster.worker import StudyTrainable, read_error, worker_config
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.stopping import Stop
from tune_interpreg.study.config import Resources, Study
from tune_interpreg.study.items import Job

logger = logging.getLogger(__name__)

#: Trials of one run of Tune, and of each of its slots, at least.
TRIALS_PER_TURN, TRIALS_PER_SLOT = 2000, 50


def drain(dispatcher: Dispatcher, where: str, *, debug: bool = False) -> Stop:
    """Run all open jobs of a study. Returns when none is open, or after Ctrl-C or SIGTERM.

    The first signal lets each trial finish its checkpoint. A second one ends at once, and loses the current epoch.

    where: ``in-process``, ``local`` (Ray on this machine) or a Ray cluster's address (``auto`` finds it).
    debug: run in this process, raise a job's exception at once, and leave signals to Python.
    """
    drop_tune_variables()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    device = "cuda" if dispatcher.study.resources.gpus else "cpu"
    if debug:
        stop = Stop()
        _run_in_process(dispatcher, device, stop, debug=True)
        return stop
    with stopping.listen_for_stops() as stop, suppress(KeyboardInterrupt):
        if where == "in-process":
            _run_in_process(dispatcher, device, stop)
        else:  # listen again, because Ray installs its own signal handlers as it starts
            with _connected(dispatcher.study, where), stopping.listen_for_stops():
                _run_on_ray(dispatcher, device, stop)
    return stop


def count_slots(study: Study, where: str) -> int:
    """Return how many trials run at once, without starting Ray. Raises ``ClusterError`` if not even one can run."""
    if where == "in-process":
        return 1
    if where == "local":
        return nodes.require_slots([ray_internals.local_resources()], study.resources)
    with _connected(study, where):
        return nodes.require_slots(nodes.living_nodes(), study.resources)


# ---------------------------------------------------------------- in this process
def _run_in_process(dispatcher: Dispatcher, device: str, stop: Stop, *, debug: bool = False) -> None:
    torch.set_num_threads(max(1, math.floor(dispatcher.study.resources.cpus)))
    while not isinstance(job := dispatcher.next(), Pause):
        run_job(dispatcher, job, worker_config(job, dispatcher.store, device), stop, debug=debug)


def run_job(dispatcher: Dispatcher, job: Job, config: dict[str, Any], stop: Stop, *, debug: bool = False) -> None:
    """Run a job to its end in this process. With ``debug``, an exception of its worker propagates.

    Otherwise the job starts again from its checkpoint, up to ``RETRIES`` times since its last epoch.
    """
    failures, is_over = 0, False
    while not is_over:
        worker = StudyTrainable(config)
        try:
            while not is_over:
                try:
                    result = worker.step()
                except Exception:
                    if debug:
                        raise
                    failures += 1
                    break
                failures = 0
                is_over = record_result(dispatcher, job, result)
                if not is_over:
                    stop.check()
        finally:
            worker.cleanup()
            shutil.rmtree(worker.logdir, ignore_errors=True)  # Tune makes this folder and leaves it empty
        is_over = is_over or dispatcher.recover(job)
        if not is_over and failures > RETRIES:
            dispatcher.fail(job, read_error(dispatcher.store, job))
            return


# ------------------------------------------------------------------------- on Ray
@contextmanager
def _connected(study: Study, where: str) -> Iterator[None]:
    logger.info("connect to Ray: %s", where)
    if where == "local":
        with local.started():
            yield
        return
    with TemporaryDirectory() as scratch:  # Ray copies the modules while it connects
        packages = runtime_env.study_packages(study)
        logger.info("upload the packages %s", ", ".join(packages))
        modules = runtime_env.collect_modules(packages, Path(scratch))
        variables = {name: value for name, value in os.environ.items() if name in SETTINGS}
        excluded = list(runtime_env.EXCLUDED)
        connection.join(where, {"py_modules": modules, "excludes": excluded, "env_vars": variables})
    try:
        yield
    finally:
        ray.shutdown()


class _StopOnRequest(tune.Stopper):
    """End Tune's run on request. Each trial finishes its epoch first."""

    def __init__(self, stop: Stop):
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.requested


def _run_on_ray(dispatcher: Dispatcher, device: str, stop: Stop) -> None:
    """Run all open jobs through Tune, in turns of some thousand trials.

    A controller of Tune looks through all of its trials at each event and keeps them in memory. The end of a turn waits
    for its last trials, so a turn has many trials for each slot.
    """
    slots = nodes.require_slots(nodes.living_nodes(), dispatcher.study.resources)
    logger.info("the nodes can run %d trials at once", slots)
    if busy := nodes.describe_other_work(dispatcher.study.resources):
        dispatcher.say(busy)
    searcher = GraphSearcher(dispatcher, device)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the dispatcher reports failures, once they are final
    with stop.polling(), watch_cluster(stop), ray_internals.survive_out_of_memory():
        while dispatcher.is_open() and not stop.requested:
            searcher.start_turn(max(TRIALS_PER_TURN, TRIALS_PER_SLOT * slots))
            try:
                _make_tuner(searcher, stop).fit()
            except Exception as error:
                raise searcher.failure or error from None
            finally:
                shutil.rmtree(dispatcher.store.tune_dir, ignore_errors=True)
            if searcher.failure:
                raise searcher.failure
            if dispatcher.is_open():
                gc.collect()  # the controller of this turn and its trials refer to each other


def _bundle(resources: Resources, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """Return Tune's request for the job of a worker's configuration."""
    needed = resources.of(nodes.stage_of(Job.model_validate(config["job"])))
    return tune.PlacementGroupFactory([{"CPU": needed.cpus, "GPU": needed.gpus}])


def _make_tuner(searcher: GraphSearcher, stop: Stop) -> tune.Tuner:
    dispatcher = searcher.dispatcher
    return tune.Tuner(
        tune.with_resources(StudyTrainable, partial(_bundle, dispatcher.study.resources)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=GraphScheduler(searcher),
            num_samples=-1,
            max_concurrent_trials=10**6,  # the searcher limits them to the nodes' slots
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(dispatcher.store.tune_dir),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
            stop=_StopOnRequest(stop),
        ),
    )
