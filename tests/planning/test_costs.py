"""Check how pieces and records add up to the seconds of an item."""

from pathlib import Path

import pytest
from helpers.closed_form import drain, study, worker
from helpers.measured import SIZES, all_pieces, all_tasks, round_seconds, tiny

from tune_interpreg.planning.costs import ITEM, RESULT, CostModel, count_attacked
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import Task
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import MapSettings, Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item

#: Of the tiny study, by ``helpers.measured.UNITS``: two epochs of two steps; two validations, one of them attacked.
TRAINING = 0.5 + 2 * (1.0 + 2 * 0.5)
CLEAN, ATTACKED = 24 * 2 * 0.01, 24 * 0.05
FINAL = 16 * (0.01 + 0.1 + 0.05) + 64 * 0.02


def round_costs(study: Study, *, on_ray: bool = False) -> CostModel:
    costs = CostModel(study, SIZES, on_ray=on_ray)
    costs.measured = round_seconds(all_pieces(study).values())
    return costs


# ------------------------------------------------------------------------------ from pieces
@pytest.mark.parametrize(
    ("task", "seconds"),
    [
        (Task("standard", "repeat", (0,)), TRAINING + CLEAN + ATTACKED + FINAL),
        (Task("robust", "search", (1,)), TRAINING + CLEAN + ATTACKED),
        (Task("matched", "search", (1,)), TRAINING + CLEAN),
        (Task("standard", "targets", (0,), MapSettings(samples=2)), 64 * 0.5),
        (Task("robust", "checks", (1,)), 7.0),
    ],
)
def test_an_item_costs_the_sum_of_its_pieces(task: Task, seconds: float) -> None:
    assert round_costs(tiny()).seconds(task) == pytest.approx(seconds)
    results = 2 if task.role in ("search", "repeat") else 0
    assert round_costs(tiny(), on_ray=True).seconds(task) == pytest.approx(seconds + ITEM + RESULT * results)


def test_seeds_that_train_together_on_a_gpu_are_judged_one_by_one() -> None:
    costs = round_costs(tiny("resources.gpus=1"))
    expected = TRAINING + 2 * (CLEAN + ATTACKED + FINAL)
    assert costs.seconds(Task("standard", "repeat", (0, 1))) == pytest.approx(expected)


def test_autoattack_and_a_limit_of_gradient_norms_count_their_images() -> None:
    costs = round_costs(tiny("evaluation.autoattack=10", "evaluation.gradient_samples=20"))
    expected = TRAINING + CLEAN + ATTACKED + FINAL + 10 * 0.5 - 44 * 0.02
    assert costs.seconds(Task("standard", "repeat", (0,))) == pytest.approx(expected)


@pytest.mark.parametrize(("every", "attacked"), [(0, 1), (1, 7), (2, 4), (3, 3), (7, 1), (9, 1)])
def test_validations_are_attacked_when_due_and_at_the_end(every: int, attacked: int) -> None:
    study = tiny("training.epochs=7", f"evaluation.adversarial_every={every}")
    assert count_attacked(study, Task("robust", "search", (0,))) == attacked
    assert count_attacked(study, Task("matched", "search", (0,))) == 0
    assert count_attacked(study, Task("matched", "repeat", (0,))) == attacked


@pytest.mark.parametrize(
    ("override", "kinds"),
    [
        ("training.epochs=9", set()),
        ("training.lr=0.5", set()),
        ("arms.robust.search.space.lambda.log_uniform=[0.5, 0.9]", set()),
        ("training.batch_size=16", {"training", "maps", "checks", "judging"}),
        ("model.name=mnist_cnn", {"training", "maps", "checks", "judging"}),
        ("arms.matched.norm=sample", {"training"}),
        ("arms.robust.targets.permute=true", {"training"}),
        ("arms.robust.targets.samples=3", {"maps"}),
        ("checks.images=5", {"checks"}),
    ],
)
def test_only_options_that_change_the_time_make_a_new_piece(override: str, kinds: set[str]) -> None:
    before, after = all_pieces(tiny()), all_pieces(tiny(override))
    assert {piece.kind for key, piece in after.items() if key not in before} == kinds


def test_arms_with_the_same_method_share_a_piece() -> None:
    titles = sorted(piece.title for piece in all_pieces(read_study_file("digits").study).values())
    interpretation = ["interpretation", "interpretation"]  # one of them with permuted maps
    assert titles == sorted(["standard", "adversarial", *interpretation, "jacobian", "judging", "maps", "checks"])


# ------------------------------------------------------------------------------ from records
def timed_worker(item: Item) -> Record:
    return worker(item) | {"seconds": 4.0 + len(item.parts), "device": "cpu"}


def test_records_of_an_arm_give_the_seconds_of_its_other_items(tmp_path: Path) -> None:
    names = ("standard", "adversarial", "robust")
    drain(study(*names, seeds="[0]"), store := Store(tmp_path), timed_worker)
    longer = study(*names)
    costs = CostModel(longer, SIZES, Dispatcher(longer, store, "f").records.values(), on_ray=False)
    tasks = all_tasks(longer)
    assert costs.unmeasured(tasks) == {}
    assert {costs.seconds(task) for task in tasks} == {5.0}


@pytest.mark.parametrize("change", [{"seconds": 0.0}, {"state": "failed"}, {"state": "pruned"}, {"device": "GPU"}])
def test_copied_unfinished_and_foreign_records_do_not_count(tmp_path: Path, change: dict[str, object]) -> None:
    small = study("standard")
    drain(small, store := Store(tmp_path), timed_worker)
    records = [record | change for record in store.records()]
    assert CostModel(small, SIZES, records).unmeasured(all_tasks(small))
