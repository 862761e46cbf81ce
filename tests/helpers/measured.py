"""A small study, and a measurement of it with round numbers."""

import math
from collections.abc import Sequence

from helpers.studies import parse_study
from tune_interpreg.planning.costs import training_item
from tune_interpreg.planning.forecast import simulate
from tune_interpreg.planning.measure import Measurement
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.study.config import Study

TINY = """
data: {name: digits, train_limit: 64, validation: 24, test_limit: 16}
training: {epochs: 2, batch_size: 32}
attack: {eps: 0.5, steps: 2}
checks: {images: 4}
seeds: [0, 1]
arms:
  standard: {method: standard}
  robust:
    method: interpretation
    targets: {teacher: standard, samples: 2}
    search: {space: {lambda: {log_uniform: [0.01, 0.1]}}, maximize: val/adv_accuracy, trials: 2}
  matched:
    method: jacobian
    search: {space: {lambda_j: {log_uniform: [0.01, 0.1]}}, match_loss_of: robust, trials: 3}
"""

STAGES = {"clean": 0.01, "strict": 0.05, "compat": 0.1, "norms": 0.02, "autoattack": 0.5, "copy": 0.25, "checks": 7.0}
TRAINING = {"setup": 0.5, "epoch": 1.0, "step": 0.5}


def tiny(*overrides: str) -> Study:
    return parse_study(TINY, *overrides)


def all_tasks(study: Study) -> list[Task]:
    return [task for task, _ in simulate(study, State.empty(study), lambda _: 1.0, math.inf).tasks]


def training_keys(study: Study) -> set[str]:
    """Return the keys of the different trainings that are measured for a study."""
    return {training_item(study, task).key for task in all_tasks(study) if task.role in ("search", "repeat")}


def round_seconds(study: Study) -> dict[str, float]:
    return STAGES | {f"{key}/{unit}": value for key in training_keys(study) for unit, value in TRAINING.items()}


def round_measurement(study: Study, tasks: Sequence[Task], workers: int, load: float = 0.0) -> Measurement:
    """Stand in for ``measure``."""
    return Measurement(round_seconds(study), 1.0, 5 * 10**8, 2 * 10**9, took=9.0, workers=workers, load=load)
