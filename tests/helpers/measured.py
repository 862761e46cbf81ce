"""A small study, and a measurement of it with round numbers."""

import math
from collections.abc import Iterable

from tune_interpreg.planning.costs import CostModel, Piece, Sizes
from tune_interpreg.planning.forecast import simulate
from tune_interpreg.planning.measure import Measurement
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import parse_study

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
SIZES = Sizes(train=64, validation=24, evaluated=16)

#: Seconds by kind of piece and unit.
UNITS = {
    "training": {"setup": 0.5, "epoch": 1.0, "step": 0.5},
    "judging": {"clean": 0.01, "strict": 0.05, "compat": 0.1, "norms": 0.02, "autoattack": 0.5},
    "maps": {"image": 0.5},
    "checks": {"model": 7.0},
}


def tiny(*overrides: str) -> Study:
    return parse_study(TINY, where="tiny.yaml", overrides=overrides)


def all_tasks(study: Study) -> list[Task]:
    return [task for task, _ in simulate(study, State.empty(study), lambda _: 1.0, math.inf).tasks]


def all_pieces(study: Study) -> dict[str, Piece]:
    return CostModel(study, SIZES).unmeasured(all_tasks(study))


def round_seconds(pieces: Iterable[Piece]) -> dict[str, dict[str, float]]:
    return {piece.key: UNITS[piece.kind] for piece in pieces}


def round_measurement(pieces: Iterable[Piece], workers: int, load: float = 0.0) -> Measurement:
    return Measurement(
        round_seconds(pieces), start=1.0, memory=5 * 10**8, gpu_memory=2 * 10**9, took=9.0, workers=workers, load=load
    )
