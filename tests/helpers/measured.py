"""A small study, and a measurement of it with round numbers."""

import math
from collections.abc import Iterable, Sequence

from helpers.studies import parse_study
from tune_interpreg.planning.costs import Piece, copy_of, pieces_of, unit_of
from tune_interpreg.planning.forecast import simulate
from tune_interpreg.planning.measure import Measurement
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Job
from tune_interpreg.study.measures import AccuracyMeasure, Measure, Question

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

#: Seconds per image by the kind of a measure; of the checks, per model.
JUDGING = {"accuracy": 0.01, "strict": 0.05, "compat": 0.1, "gradient_norms": 0.02, "autoattack": 0.5, "checks": 7.0}
TRAINING = {"setup": 0.5, "epoch": 1.0, "step": 0.5}


def tiny(*overrides: str) -> Study:
    return parse_study(TINY, *overrides)


def all_pieces(study: Study) -> list[Piece]:
    """Return the pieces of a study that has not run."""
    progress = Progress(study, Store("nowhere"), [], [], "")
    pieces: list[Piece] = []

    def note(task: Task, state: State) -> float:
        pieces.extend(pieces_of(progress, state, task))
        return 1.0

    simulate(study, progress.state, note, math.inf)
    return pieces


def training_keys(pieces: Iterable[Piece]) -> set[str]:
    """Return the keys of the different trainings that are measured."""
    return {piece.content.key for piece in pieces if isinstance(piece.content, Job)}


def round_seconds(pieces: Sequence[Piece]) -> dict[str, float]:
    """Return what ``measure`` measures of pieces, in round numbers."""
    seconds: dict[str, float] = {}
    for piece in pieces:
        asked: list[Measure] = [AccuracyMeasure()]
        if isinstance(piece.content, Question):
            asked.append(piece.content.measure)
        elif isinstance(piece.content, Job):
            asked.append(piece.content.observation.strict)
        else:
            seconds[copy_of(piece.model)] = 0.25
        seconds |= {unit_of(measure, piece.model): JUDGING[measure.kind] for measure in asked}
    return seconds | {f"{key}/{unit}": value for key in training_keys(pieces) for unit, value in TRAINING.items()}


def round_measurement(study: Study, pieces: Sequence[Piece], workers: int, load: float = 0.0) -> Measurement:
    """Stand in for ``measure``."""
    return Measurement(round_seconds(pieces), 1.0, 5 * 10**8, 2 * 10**9, took=9.0, workers=workers, load=load)
