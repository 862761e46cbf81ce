"""Check measured times against the times of real epochs, and how repetitions are counted."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.measured import all_pieces, tiny

from tune_interpreg.planning.costs import probe_item
from tune_interpreg.planning.measure import (
    LEAST,
    LONG,
    Hardware,
    MeasurementError,
    _Bench,
    _measure_here,
    load_of_others,
    measure,
)
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.read import parse_study

HERE = Hardware(threads=1, device="cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.ray
def test_steps_and_validations_add_up_to_a_real_epoch(tmp_path: Path, one_thread: None) -> None:
    """Compare processor times, for an epoch with 10 short steps and 1,000 images of validation."""
    study = parse_study(
        "data: {name: digits, train_limit: 320, validation: 1000}\n"
        "training: {batch_size: 32}\narms: {standard: {method: standard}}\n",
        where="here",
    )
    pieces = {piece.kind: piece for piece in all_pieces(study).values()}
    bench = _Bench(Store(tmp_path), probe_item(study), HERE)
    training, judging = bench.measure(pieces["training"]), bench.measure(pieces["judging"])
    estimate = 10 * training["step"] + 1000 * judging["clean"]  # without the log and the checkpoint

    real = bench._start(pieces["training"].item)
    epochs = []
    for _ in range(20):
        started = time.thread_time()
        real.step()
        epochs.append(time.thread_time() - started)
    assert 0.5 < estimate / min(epochs) < 1.25


@pytest.mark.parametrize(("before", "others", "seconds"), [(0.0, 0.0, 30.0), (0.2, 1.0, 60.0), (5.0, 0.5, 20.0)])
def test_load_of_others_solves_the_equation_of_the_load_average(before: float, others: float, seconds: float) -> None:
    decay = math.exp(-seconds / 60)
    after = before * decay + (2 + others) * (1 - decay)
    assert load_of_others(before, after, seconds, threads=2) == pytest.approx(others)


@pytest.mark.ray
def test_the_first_run_and_slow_runs_do_not_count(tmp_path: Path) -> None:
    bench = _Bench(Store(tmp_path), probe_item(tiny()), HERE)
    clock, runs = [0.0], iter([0.5, 0.9, 0.3, 0.4])
    bench.clock = lambda: clock[0]

    def work() -> None:
        clock[0] += next(runs)

    assert LEAST == 3
    assert bench._shortest(work) == pytest.approx(0.3)
    runs = iter([LONG + 1])
    assert bench._shortest(work) == pytest.approx(LONG + 1)


@pytest.mark.ray
@pytest.mark.slow
def test_every_kind_of_piece_is_measured_in_processes_of_its_own() -> None:
    study = tiny("evaluation.autoattack=2", "checks.autoattack=2")
    pieces = all_pieces(study)
    measurement = measure(pieces, probe_item(study), HERE, workers=2)
    assert measurement.seconds.keys() == pieces.keys()
    assert all(0 <= seconds < 10 for piece in measurement.seconds.values() for seconds in piece.values())
    assert all(measurement.seconds[key]["step"] > 0 for key, piece in pieces.items() if piece.kind == "training")
    assert measurement.memory > 1e8


@pytest.mark.ray
def test_a_piece_that_fails_is_named(one_thread: None) -> None:
    study = tiny()
    piece = next(piece for piece in all_pieces(study).values() if piece.title == "jacobian")
    broken = piece.model_copy(update={"item": piece.item.model_copy(update={"seeds": ()})})
    with pytest.raises(MeasurementError, match="jacobian cannot be measured"):
        _measure_here([broken], probe_item(study), HERE, 0.0)
