"""Check how measured times and records add up to the seconds of a task."""

from pathlib import Path

import pytest
from helpers.closed_form import drain, study, worker
from helpers.measured import all_tasks, round_seconds, tiny, training_keys

from tune_interpreg.data.dataset import load_dataset
from tune_interpreg.planning.costs import add_ray, add_up, count_attacked, group_of, recorded_seconds
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import Task
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import MapSettings, Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item

#: Of the tiny study, by ``helpers.measured``: two epochs of two steps; two validations, one of them attacked.
TRAINING = 0.5 + 2 * (1.0 + 2 * 0.5)
CLEAN, ATTACKED = 24 * 2 * 0.01, 24 * 0.05
FINAL = 16 * (0.01 + 0.1 + 0.05) + 64 * 0.02
REPEAT = Task("standard", "repeat", (0,))


def seconds(study: Study, task: Task) -> float:
    return add_up(study, load_dataset(study.data), 16, round_seconds(study), task)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (REPEAT, TRAINING + CLEAN + ATTACKED + FINAL),
        (Task("robust", "search", (1,)), TRAINING + CLEAN + ATTACKED),
        (Task("matched", "search", (1,)), TRAINING + CLEAN),
        (Task("standard", "targets", (0,), MapSettings(samples=2)), 64 * 0.5),
        (Task("standard", "targets", (0,), MapSettings(samples=2, include_clean=True)), 64 * 0.75),
        (Task("robust", "checks", (1,)), 7.0),
    ],
)
def test_a_task_costs_the_sum_of_its_parts(task: Task, expected: float) -> None:
    assert seconds(tiny(), task) == pytest.approx(expected)


def test_seeds_that_train_together_on_a_gpu_are_judged_one_by_one() -> None:
    expected = TRAINING + 2 * (CLEAN + ATTACKED + FINAL)
    assert seconds(tiny("resources.gpus=1"), Task("standard", "repeat", (0, 1))) == pytest.approx(expected)


def test_autoattack_and_a_limit_of_gradient_norms_count_their_images() -> None:
    expected = TRAINING + CLEAN + ATTACKED + FINAL + 10 * 0.5 - 44 * 0.02
    limited = tiny("evaluation.autoattack=10", "evaluation.gradient_samples=20")
    assert seconds(limited, REPEAT) == pytest.approx(expected)


def test_ray_adds_time_per_item_and_per_epoch() -> None:
    longer = tiny("training.epochs=4")
    maps = Task("standard", "targets", (0,), MapSettings(samples=2))
    assert 0 < add_ray(tiny(), maps) == add_ray(longer, maps) < add_ray(tiny(), REPEAT) < add_ray(longer, REPEAT)


@pytest.mark.parametrize(("every", "attacked"), [(0, 1), (1, 7), (2, 4), (3, 3), (7, 1), (9, 1)])
def test_validations_are_attacked_when_due_and_at_the_end(every: int, attacked: int) -> None:
    study = tiny("training.epochs=7", f"evaluation.adversarial_every={every}")
    assert count_attacked(study, Task("robust", "search", (0,))) == attacked
    assert count_attacked(study, Task("matched", "search", (0,))) == 0
    assert count_attacked(study, Task("matched", "repeat", (0,))) == attacked


@pytest.mark.parametrize(
    ("override", "count"),
    [
        ("training.epochs=9", 0),
        ("arms.robust.search.space.lambda.log_uniform=[0.5, 0.9]", 0),
        ("arms.robust.targets.samples=3", 0),
        ("arms.matched.norm=sample", 1),
        ("arms.robust.targets.permute=true", 1),
        ("training.batch_size=16", 3),
        ("model.name=mnist_cnn", 3),
    ],
)
def test_only_options_that_change_the_time_make_another_training(override: str, count: int) -> None:
    assert len(training_keys(tiny(override)) - training_keys(tiny())) == count


def test_arms_with_the_same_method_share_a_training() -> None:
    """The five: standard, adversarial, jacobian, and interpretation with and without permuted maps."""
    assert len(training_keys(read_study_file("digits").study)) == 5


# ------------------------------------------------------------------------------ from records
def timed_worker(item: Item) -> Record:
    return worker(item) | {"seconds": 4.0 + len(item.parts), "device": "cpu"}


def test_records_of_an_arm_give_the_seconds_of_its_other_items(tmp_path: Path) -> None:
    names = ("standard", "adversarial", "robust")
    drain(study(*names, seeds="[0]"), store := Store(tmp_path), timed_worker)
    longer = study(*names)
    recorded = recorded_seconds(longer, Dispatcher(longer, store, "f").records.values())
    assert {recorded[group_of(task)] for task in all_tasks(longer)} == {5.0}


@pytest.mark.parametrize("change", [{"seconds": 0.0}, {"state": "failed"}, {"state": "pruned"}, {"device": "GPU"}])
def test_copied_unfinished_and_foreign_records_do_not_count(tmp_path: Path, change: dict[str, object]) -> None:
    small = study("standard")
    drain(small, store := Store(tmp_path), timed_worker)
    assert recorded_seconds(small, [record | change for record in store.records()]) == {}
