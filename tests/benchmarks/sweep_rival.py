"""The rival of a study in the sweep that ``bench_sweep`` measures, plain Tune: ``python sweep_rival.py 1000``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from sweep_trials import HIGH, LOW, SEED, accuracy


class Plain(tune.Trainable):
    """The same trial for plain Tune; its events, CSV and JSON are written by Tune's own loggers, on the driver."""

    def setup(self, config: dict[str, Any]) -> None:
        self.point = config

    def step(self) -> dict[str, Any]:
        value = accuracy(**self.point)
        return {"train/loss": 1 - value, "val/accuracy": value, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.point = new_config
        return True


def main(trials: int) -> None:
    """The sweep through Tune as it comes, but for reused workers and their number, and TPE as the study sets it.

    Nor is the class saved at its end: it has no checkpoint, and Tune would fail without one.
    """
    sampler = optuna.samplers.TPESampler(seed=SEED, n_startup_trials=max(4, trials // 3))
    tuner = tune.Tuner(
        Plain,
        param_space={"x": tune.uniform(LOW, HIGH), "y": tune.uniform(LOW, HIGH)},
        tune_config=tune.TuneConfig(
            metric="val/accuracy",
            mode="max",
            search_alg=OptunaSearch(sampler=sampler),
            num_samples=trials,
            max_concurrent_trials=os.cpu_count(),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(Path("ray").resolve()), checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
        ),
    )
    assert len(tuner.fit()) == trials


if __name__ == "__main__":
    main(int(sys.argv[1]))
