"""Weights & Biases: one run per training, grouped by arm, and a run with the tables."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from tune_interpreg.study.recipe import digest
from tune_interpreg.trackers.tracker import TrackedRun

#: Seconds that the upload of one run may take.
UPLOAD = 300.0


class WandbTracker:
    """Write trainings to the project ``WANDB_PROJECT``, or to that of the study's name.

    W&B's own variables count: ``WANDB_MODE=offline`` writes files below ``WANDB_DIR`` (or the working folder), and
    ``wandb sync`` sends them. A run that the server has is resumed and gets what it lacks.
    """

    def __init__(self, study: str):
        self._study, self._project = study, os.environ.get("WANDB_PROJECT") or study
        mode, host = wandb.setup().settings.mode, wandb.setup().settings.base_url
        self.place = f"project {self._project}, {mode}" + (f" at {host}" if mode == "online" else "")
        if mode == "online" and not wandb.login(prompt=False):
            raise PermissionError(f"no key for {host}; `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline")
        # Of this process there is nothing to see: neither its output and load, nor the code in the working folder.
        self._settings = wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            disable_git=True,
            disable_code=True,
            finish_timeout=UPLOAD,
            finish_timeout_raises=True,
        )

    def write_run(self, run: TrackedRun) -> None:
        """Write a training. Its results are the run's summary; a failed or diverged training is a failed run."""
        fields: dict[str, Any] = {"id": run.id, "name": run.name, "group": run.arm, "job_type": run.stages[-1]}
        is_lost = run.state in ("failed", "diverged")
        with self._open(int(is_lost), fields | {"config": {**run.params, **run.facts}}) as opened:
            first = opened.step  # a resumed run has the epochs before this one
            for epoch, metrics in enumerate(run.epochs, start=1):
                if epoch >= first and metrics:
                    opened.log(dict(metrics), step=epoch, commit=True)  # before the results, which count
            opened.summary.update(dict(run.metrics))

    def write_tables(self, files: Sequence[Path]) -> None:
        """Write the tables as an artifact of a run of their own."""
        key = digest(["study", self._study])
        fields = {"id": key, "name": f"{self._study} tables", "group": "tables", "job_type": "tables"}
        with self._open(0, fields) as opened:
            artifact = wandb.Artifact(f"tables-{key}", "tables")
            for file in files:
                artifact.add_file(str(file))
            opened.log_artifact(artifact)

    @contextmanager
    def _open(self, exit_code: int, fields: Mapping[str, Any]) -> Iterator[wandb.Run]:
        run = wandb.init(
            project=self._project,
            resume="allow",
            reinit="create_new",
            allow_val_change=True,
            settings=self._settings,
            **fields,
        )
        try:
            yield run
        except BaseException:
            run.finish(1)
            raise
        run.finish(exit_code)
