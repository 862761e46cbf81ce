"""Check measured times against the times of real epochs, and how repetitions are counted."""

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.measured import all_pieces, round_seconds, tiny
from helpers.studies import parse_study

from tune_interpreg import registry
from tune_interpreg.attacks import autoattack
from tune_interpreg.cluster.worker import worker_config
from tune_interpreg.planning.costs import training_job, unit_of
from tune_interpreg.planning.measure import LONG, Bench, MeasurementError, load_of_others, measure, measure_here
from tune_interpreg.schedule.graph import Task
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack
from tune_interpreg.study.items import Job
from tune_interpreg.study.measures import AccuracyMeasure, AutoAttackMeasure

STANDARD = Task("standard", "repeats", (0,))


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
    )
    bench, job, accuracy = Bench(study, Store(tmp_path)), training_job(study, STANDARD), AccuracyMeasure()
    measured = bench.measure_training(job) | bench.measure_judging(accuracy, study.model)
    epoch, step = (measured[f"{job.key}/{unit}"] for unit in ("epoch", "step"))
    estimate = epoch + 10 * step + 1000 * measured[unit_of(accuracy, study.model)]

    real = registry.load_method("standard")(worker_config(job, Store(tmp_path), "cpu"))
    epochs = []
    for _ in range(20):
        started = time.thread_time()
        real.step()
        epochs.append(time.thread_time() - started)
    assert 0.7 < estimate / min(epochs) < 1.4


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_part_of_autoattacks_iterations_tells_what_the_whole_takes(tmp_path: Path, one_thread: None) -> None:
    """Compare with real runs, of a model that every attack breaks and of one that none breaks."""
    bench = Bench(parse_study("data: digits\narms: {standard: {method: standard}}\n"), Store(tmp_path))
    measure, network = AutoAttackMeasure(norm="linf", eps=0.05, images=50), bench.study.model
    (seconds,) = bench.measure_judging(measure, network).values()
    whole = partial(autoattack.measure_adversarial_accuracy, bench.probe(network), bench._rows(50))
    real = bench._mean_of_extremes(
        lambda attack: whole(attack=attack, seed=0, batch_size=50), Attack(norm="linf", eps=0.05)
    )
    assert 0.67 < 50 * seconds / real < 1.5


@pytest.mark.parametrize(("before", "others", "seconds"), [(0.0, 0.0, 30.0), (0.2, 1.0, 60.0), (5.0, 0.5, 20.0)])
def test_load_of_others_solves_the_equation_of_the_load_average(before: float, others: float, seconds: float) -> None:
    decay = math.exp(-seconds / 60)
    after = before * decay + (2 + others) * (1 - decay)
    assert load_of_others(before, after, seconds, threads=2) == pytest.approx(others)


@pytest.mark.ray
def test_the_first_run_and_slow_runs_do_not_count(tmp_path: Path) -> None:
    bench = Bench(tiny(), Store(tmp_path))
    clock, runs = [0.0], iter([0.5, 0.15, 0.1])
    bench.clock = lambda: clock[0]

    def work() -> None:
        clock[0] += next(runs)

    assert bench._shortest(work) == pytest.approx(0.1)
    runs = iter([LONG + 1])
    assert bench._shortest(work) == pytest.approx(LONG + 1)


@pytest.mark.ray
@pytest.mark.slow
def test_all_work_is_measured_in_a_process_of_its_own() -> None:
    study = tiny("evaluation.attacks=[{autoattack: 2}]", "checks.autoattack=2")
    pieces = all_pieces(study)
    measurement = measure(study, pieces, workers=1)
    assert measurement.seconds.keys() == round_seconds(pieces).keys()
    assert all(0 <= seconds < 10 for seconds in measurement.seconds.values())
    assert all(seconds > 0 for unit, seconds in measurement.seconds.items() if "/" not in unit)
    assert measurement.memory > 1e8


@pytest.mark.ray
def test_work_that_fails_is_named(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [
        piece for piece in all_pieces(tiny()) if isinstance(piece.content, Job) and piece.content.arm == "matched"
    ]
    monkeypatch.setattr(registry.load_method("jacobian"), "terms", None)
    with pytest.raises(MeasurementError, match=r"the training of matched .* cannot be measured: TypeError"):
        measure_here(tiny(), pieces, threads=1)
