"""MLflow: one run per training, below a run of the study that has the tables."""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from tune_interpreg.study.recipe import digest
from tune_interpreg.trackers.tracker import TrackedRun

T = TypeVar("T")

#: MLflow's state of a run, by that of a training.
STATUS = {"done": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "diverged": "FAILED"}

#: Tags for later exports: the id of a run, and the number of epochs that it has.
ID, EPOCHS = "tune_interpreg.run", "tune_interpreg.epochs"
PARENT = "mlflow.parentRunId"

#: The most that one request may hold: metrics, and parameters or tags.
METRICS, PARAMS = 1000, 100


class MlflowTracker:
    """Write trainings to the experiment ``MLFLOW_EXPERIMENT_NAME``, or to that of the study's name.

    ``MLFLOW_TRACKING_URI`` names the server or database; MLflow's default is ``mlflow.db`` in the working folder.
    MLflow gives each run an id of its own, so a tag holds ours. A run that is there gets what it lacks.
    """

    def __init__(self, study: str):
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines per run
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or study
        experiment = self._client.get_experiment_by_name(name)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self.place = f"experiment {name} of {self._client.tracking_uri}"
        self._parent = self._find_or_create(digest(["study", study]), study, datetime.now(UTC), {}).info.run_id

    def write_run(self, run: TrackedRun) -> None:
        """Write a training. Metrics of an epoch have it as their step, results have the last one."""
        tags = {PARENT: self._parent, "arm": run.arm}
        there = self._find_or_create(run.id, run.name, run.started, tags)
        key, shown, last = there.info.run_id, dict(there.data.metrics), len(run.epochs)
        params = [Param(name, str(value)) for name, value in run.params.items() if name not in there.data.params]
        for batch in _batches(params, PARAMS):
            self._client.log_batch(key, params=batch)
        if there.data.tags.get(EPOCHS) != str(last):
            moment, points = _milliseconds(run.finished), []  # always the same: MLflow drops a point that it has
            for epoch, metrics in enumerate(run.epochs, start=1):
                points += [Metric(name, value, moment, epoch) for name, value in metrics.items()]
                shown |= metrics
            for metrics_batch in _batches(points, METRICS):
                self._client.log_batch(key, metrics=metrics_batch)
            self._client.set_tag(key, EPOCHS, str(last))
        moment = _milliseconds(datetime.now(UTC))  # of points with one step, MLflow shows the latest
        results = [Metric(name, x, moment, last) for name, x in run.metrics.items() if shown.get(name) != x]
        facts = [RunTag(name, text) for name, text in run.facts.items()]
        self._client.log_batch(key, metrics=results, tags=facts)
        self._client.update_run(key, name=run.name)
        self._client.set_terminated(key, STATUS[run.state], _milliseconds(run.finished))

    def write_tables(self, files: Sequence[Path]) -> None:
        """Write the tables as artifacts of the study's run."""
        for file in files:
            self._client.log_artifact(self._parent, str(file), "tables")
        self._client.set_terminated(self._parent)

    def _find_or_create(self, ours: str, name: str, started: datetime, tags: Mapping[str, Any]) -> Run:
        runs = self._client.search_runs([self._experiment], f"tags.`{ID}` = '{ours}'", max_results=1)
        if runs:
            return runs[0]
        return self._client.create_run(self._experiment, _milliseconds(started), {**tags, ID: ours}, name)


def _milliseconds(moment: datetime) -> int:
    return round(1000 * moment.timestamp())


def _batches(content: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (content[first : first + size] for first in range(0, len(content), size))
