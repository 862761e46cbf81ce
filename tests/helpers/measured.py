"""A small study, and a measurement of it in which each kind of piece takes round seconds."""

import math

from tune_interpreg.planning.costs import Costs, Prices
from tune_interpreg.planning.pieces import Piece
from tune_interpreg.planning.simulation import schedule
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.study.config import Study
from tune_interpreg.study.file import read as study_file

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
SECONDS = {
    "training": {"setup": 0.5, "epoch": 2.0},
    "judging": {"validation": 3.0, "final": 10.0},
    "maps": {"all": 40.0},
    "checks": {"all": 7.0},
}


def tiny(*overrides: str) -> Study:
    return study_file.parse(TINY, where="tiny.yaml", overrides=overrides)


def tasks(of: Study) -> list[Task]:
    return [task for task, _ in schedule(of, State.empty(of), lambda _: 1.0, math.inf).tasks]


def needed(of: Study, tests: int = 16) -> dict[str, Piece]:
    return Prices(of, tests).lacking(tasks(of))


def made(of: Study, **changed: object) -> Costs:
    """A measurement in which each kind of piece takes the seconds above."""
    found = {key: SECONDS[piece.kind] for key, piece in needed(of).items()}
    seen = {"start": 1.0, "memory": 5e8, "gpu_memory": 2e9}
    known = Costs(device="cpu", host="here", workers=2, measured="now", seconds=1.0, processes=seen, pieces=found)
    return known.model_copy(update=changed)
