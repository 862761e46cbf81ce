"""The stage that checks trained models: its record, and how it resumes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.contract import finish
from safetensors.torch import save_file
from trainables.stages.checks import ChecksTrainable

from tune_interpreg.data.dataset import load_dataset, split_stratified
from tune_interpreg.evaluation import honesty
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.networks.build import build
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Evaluation
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import CheckedModel, Recipe

ATTACK = Attack(eps=0.5, steps=3)
CHECKED = CheckedModel(model="model", seed=3, sources={"standard": "source"}, images=12)
RECIPE = Recipe(
    method="checks", evaluation_attack=ATTACK, evaluation=Evaluation(batch_size=20, restarts=2), checked=CHECKED
)
COUNT = len(honesty.CHECKS)


def network(seed: int) -> torch.nn.Module:
    return build(RECIPE.model, (1, 8, 8), 10, seed).eval()


def checks_item(**changes: Any) -> Item:
    checked = CHECKED.model_copy(update=changes)
    return Item(arm="robust", role="checks", recipe=RECIPE.model_copy(update={"checked": checked}), seeds=(3,))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that holds both models."""
    store = Store(tmp_path / "store")
    for seed, key in enumerate(CHECKED.models):
        file = store.model_file(key, CHECKED.seed)
        file.parent.mkdir(parents=True)
        save_file(network(seed).state_dict(), file)
    return store


def make(store: Store, **changes: Any) -> ChecksTrainable:
    item = checks_item(**changes).model_dump(mode="json")
    return ChecksTrainable({"item": item, "store": str(store.path), "device": "cpu"})


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    """The checks of the stratified first validation images, attacked as in the evaluation."""
    validation = load_dataset(Data()).validation
    rows = split_stratified(validation.y_N, CHECKED.images, "checks")[0]
    subject = Subject(network(0), validation.at(rows), ATTACK, 3, 20, 2, {"standard": network(1)})
    return [check(subject).as_record() for check in honesty.CHECKS]


def test_the_record_holds_every_check_of_the_stored_model_by_seed(store: Store, expected: list[dict[str, Any]]) -> None:
    results = finish(make(store))
    assert [result["epoch"] for result in results] == list(range(1, COUNT + 1))
    (record,) = store.records()
    assert json.loads(results[-1]["record"]) == record
    assert record["checks"] == {"3": expected}
    assert (record["state"], record["counts"], record["device"]) == ("done", {"checks": 12}, "cpu")
    assert store.item_of(record) == checks_item()


@pytest.mark.parametrize("checks", [1, COUNT - 1])
def test_an_interrupted_stage_runs_only_the_remaining_checks(
    checks: int, store: Store, expected: list[dict[str, Any]]
) -> None:
    killed = make(store)
    for _ in range(checks):
        killed.step()
    assert len(finish(make(store))) == COUNT - checks
    (record,) = store.records()
    assert record["checks"] == {"3": expected}
    assert record["seconds"] > 0


def test_a_stage_that_dies_before_its_record_only_writes_it(store: Store) -> None:
    obstacle = store.record_file("robust", checks_item().key)
    obstacle.mkdir(parents=True)
    with pytest.raises(OSError):
        finish(make(store))
    obstacle.rmdir()
    assert len(finish(make(store))) == 1


def test_damaged_progress_is_set_aside_and_made_again(store: Store) -> None:
    make(store).step()
    progress = store.checkpoint_dir(checks_item().key) / "progress.json"
    progress.write_text(progress.read_text().replace("PASS", "WARN"))
    again = make(store)
    assert str(progress) in str(again.warning)
    assert len(finish(again)) == COUNT
