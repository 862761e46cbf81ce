"""The rivals of a study in the sweep that ``bench_sweep`` measures: plain Tune, and the proposals alone.

``python sweep_rivals.py plain 1000`` and ``python sweep_rivals.py tpe 1000`` run them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
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


def sampler(trials: int) -> optuna.samplers.BaseSampler:
    """TPE as the study sets it."""
    return optuna.samplers.TPESampler(seed=SEED, n_startup_trials=max(4, trials // 3))


def plain(trials: int) -> None:
    """The sweep through Tune as it comes, but for the sampler's settings, reused workers and their number.

    Nor is the class saved at its end: it has no checkpoint, and Tune would fail without one.
    """
    tuner = tune.Tuner(
        Plain,
        param_space={"x": tune.uniform(LOW, HIGH), "y": tune.uniform(LOW, HIGH)},
        tune_config=tune.TuneConfig(
            metric="val/accuracy",
            mode="max",
            search_alg=OptunaSearch(sampler=sampler(trials)),
            num_samples=trials,
            max_concurrent_trials=os.cpu_count(),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(Path("ray").resolve()), checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
        ),
    )
    assert len(tuner.fit()) == trials


def tpe(trials: int) -> None:
    """The same proposals in Optuna's memory, without Tune."""
    study = optuna.create_study(direction="maximize", sampler=sampler(trials))
    space: dict[str, BaseDistribution] = {name: FloatDistribution(LOW, HIGH) for name in ("x", "y")}
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, accuracy(**trial.params))


if __name__ == "__main__":
    {"plain": plain, "tpe": tpe}[sys.argv[1]](int(sys.argv[2]))
