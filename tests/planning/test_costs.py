"""Check how measured times and records add up to the seconds of a task."""

from pathlib import Path

import pytest
from helpers.closed_form import drain, study, worker
from helpers.measured import all_pieces, round_seconds, tiny, training_keys

from tune_interpreg.data.dataset import load_dataset
from tune_interpreg.planning.costs import add_ray, add_up, pieces_of, recorded_seconds
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import MapSettings, Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item, Job

#: Of the tiny study, by ``helpers.measured``: two epochs of two steps, each with a validation.
TRAINING, OBSERVED = 0.5 + 2 * (1.0 + 2 * 0.5), 2 * 24 * 0.01
VALIDATED = 24 * (0.01 + 0.05)
FINAL = 16 * (0.01 + 0.1 + 0.05) + 64 * 0.02
REPEAT = Task("standard", "repeats", (0,))


def seconds(study: Study, task: Task, state: State | None = None) -> float:
    progress = Progress(study, Store("nowhere"), [], [], "")
    data, measured = load_dataset(study.data), round_seconds(all_pieces(study))
    return sum(add_up(study, data, 16, measured, piece) for piece in pieces_of(progress, state or progress.state, task))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (REPEAT, TRAINING + OBSERVED + VALIDATED + FINAL),
        (Task("robust", "search", (1,)), TRAINING + OBSERVED + VALIDATED),
        (Task("matched", "search", (1,)), TRAINING + OBSERVED),
        (Task("standard", "maps", (0,), MapSettings(samples=2)), 64 * 0.5),
        (Task("standard", "maps", (0,), MapSettings(samples=2, include_clean=True)), 64 * 0.75),
    ],
)
def test_a_task_costs_the_sum_of_its_parts(task: Task, expected: float) -> None:
    assert seconds(tiny(), task) == pytest.approx(expected)


def test_a_model_of_a_trial_is_judged_as_far_as_its_search_did_not() -> None:
    """The checks come once the models are there that attack it."""
    of, state = tiny(), State.empty(tiny())
    task = Task("robust", "judgments", (0,))
    assert seconds(of, task, state) == pytest.approx(FINAL)
    state.repeats["standard"].done.add(0)
    assert seconds(of, task, state) == pytest.approx(FINAL + 7.0)
    state.waiting["robust"].add(0)
    assert seconds(of, task, state) == pytest.approx(7.0)


def test_seeds_that_train_together_on_a_gpu_are_judged_one_by_one() -> None:
    expected = TRAINING + 2 * (OBSERVED + VALIDATED + FINAL)
    assert seconds(tiny("resources.gpus=1"), Task("standard", "repeats", (0, 1))) == pytest.approx(expected)


@pytest.mark.parametrize(("images", "norms"), [(20, 20), (1000, 64)])
def test_autoattack_and_a_limit_of_gradient_norms_count_their_images(images: int, norms: int) -> None:
    expected = TRAINING + OBSERVED + VALIDATED + FINAL + 10 * 0.5 + (norms - 64) * 0.02
    limited = tiny("evaluation.attacks=[{autoattack: 10}]", f"evaluation.gradient_norms.images={images}")
    assert seconds(limited, REPEAT) == pytest.approx(expected)


def test_ray_adds_time_per_job_and_per_epoch() -> None:
    def added(of: Study, task: Task) -> float:
        progress = Progress(of, Store("nowhere"), [], [], "")
        return add_ray(of, list(pieces_of(progress, progress.state, task)))

    longer, maps = tiny("training.epochs=4"), Task("standard", "maps", (0,), MapSettings(samples=2))
    assert 0 < added(tiny(), maps) == added(longer, maps) < added(tiny(), REPEAT) < added(longer, REPEAT)


@pytest.mark.parametrize(("every", "attacked"), [(0, 0), (1, 7), (2, 3), (3, 2), (7, 1), (9, 0)])
def test_validations_are_attacked_when_due(every: int, attacked: int) -> None:
    never, due = (tiny("training.epochs=7", f"evaluation.adversarial_every={number}") for number in (0, every))
    for task, count in {
        REPEAT: attacked,
        Task("robust", "search", (0,)): attacked,
        Task("matched", "search", (0,)): 0,
        Task("matched", "repeats", (0,)): attacked,
    }.items():
        assert seconds(due, task) - seconds(never, task) == pytest.approx(count * 24 * 0.05)


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
    assert len(training_keys(all_pieces(tiny(override))) - training_keys(all_pieces(tiny()))) == count


def test_arms_with_the_same_method_share_a_training() -> None:
    """The five: standard, adversarial, jacobian, and interpretation with and without permuted maps."""
    assert len(training_keys(all_pieces(read_study_file("digits").study))) == 5


# ------------------------------------------------------------------------------ from records
def timed_worker(job: Job, item: Item) -> Record:
    return worker(job, item) | {"seconds": 5.0, "device": "cpu"}


def test_records_of_an_arm_give_the_seconds_of_its_other_items(tmp_path: Path) -> None:
    """Those of a trial also the seconds of a repeat, because the model of the best trial is a repeat."""
    names = ("standard", "adversarial", "robust")
    drain(study(*names, seeds="[0]"), store := Store(tmp_path), timed_worker)
    longer = study(*names)
    recorded = recorded_seconds(Dispatcher(longer, store, "f").progress)
    assert {recorded[piece] for piece in all_pieces(longer)} == {5.0}


@pytest.mark.parametrize("change", [{"seconds": 0.0}, {"state": "failed"}, {"state": "pruned"}, {"device": "GPU"}])
def test_copied_unfinished_and_foreign_records_do_not_count(tmp_path: Path, change: dict[str, object]) -> None:
    small = study("standard")
    drain(small, store := Store(tmp_path), timed_worker)
    changed = [record | change for record in store.records()]
    assert recorded_seconds(Progress(small, store, store.records(), [], "f")).keys() == set(all_pieces(small))
    assert recorded_seconds(Progress(small, store, changed, [], "f")) == {}
