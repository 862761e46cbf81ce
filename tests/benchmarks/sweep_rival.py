"""Plain Ray Tune, the rival in ``bench_sweep``: ``python sweep_rival.py 1000``."""

import os
import sys
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from sweep_trials import HIGH, LOW, SEED, accuracy


class Plain(tune.Trainable):
    """The same trial for plain Tune. Tune's own loggers write events, CSV and JSON on the driver."""

    def setup(self, config: dict[str, Any]) -> None:
        self.point = config

    def step(self) -> dict[str, Any]:
        value = accuracy(**self.point)
        return {"train/loss": 1 - value, "val/accuracy": value, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.point = new_config
        return True


def main(trials: int) -> None:
    """Run the sweep through Tune with its defaults, except for reused workers, their number and the study's TPE.

    The class is not saved at its end: it has no checkpoint, and Tune would fail without one.
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
