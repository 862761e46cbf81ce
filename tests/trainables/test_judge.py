"""Judgments of trained models by a worker: their records, and how checks resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.contract import finish
from helpers.jobs import config_of, training_job
from safetensors.torch import save_file

from trainables.stages.judge import JudgeTrainable
from tune_interpreg.data.dataset import load_dataset, split_stratified
from tune_interpreg.evaluation import honesty
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Model
from tune_interpreg.study.items import Job, Judge
from tune_interpreg.study.measures import AccuracyMeasure, ChecksMeasure, StrictMeasure
from tune_interpreg.study.recipe import Recipe

pytestmark = pytest.mark.thorough

ATTACK = Attack(eps=0.5, steps=3)
RECIPE = Recipe(method="standard")
(MODEL,) = training_job(RECIPE, "robust", seed=3).models
SOURCE = "source"
MEASURE = ChecksMeasure(
    images=12, autoattack=None, attack=ATTACK, restarts=2, batch_size=20, sources={"standard": SOURCE}
)
CHECKS = Judge(model=MODEL.key, measure=MEASURE, split="validation")
COUNT = len(honesty.list_checks(None))


def network(seed: int) -> torch.nn.Module:
    return build(RECIPE.model, (1, 8, 8), 10, seed).eval()


def judging(*work: Judge) -> Job:
    return training_job(RECIPE, "robust", seed=3, work=work, stage="judgments", trains=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that holds both models."""
    store = Store(tmp_path / "store")
    for seed, key in enumerate((MODEL.key, SOURCE)):
        file = store.model_file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(network(seed).state_dict(), file)
    return store


def make(store: Store, *work: Judge) -> JudgeTrainable:
    return JudgeTrainable(config_of(judging(*(work or (CHECKS,))), store))


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    """The checks of the stratified first validation images, attacked as in the evaluation."""
    validation = load_dataset(Data()).validation
    rows = split_stratified(validation.y_N, MEASURE.images, "checks")[0]
    subject = Subject(network(0), validation.at(rows), ATTACK, 3, 20, 2, {"standard": network(1)})
    return [check(subject).as_record() for check in honesty.list_checks(None)]


def test_the_record_holds_every_check_of_the_stored_model(store: Store, expected: list[dict[str, Any]]) -> None:
    results = finish(make(store))
    assert [result["epoch"] for result in results] == list(range(1, COUNT + 1))
    (record,) = store.records()
    assert json.loads(results[-1]["records"]) == [record]
    assert record["checks"] == expected
    assert (record["state"], record["images"], record["device"]) == ("done", {"validation": 12}, "cpu")
    assert Judge.model_validate({name: record[name] for name in Judge.model_fields}) == CHECKS
    assert (record["arm"], record["seed"], record["key"]) == ("robust", 3, CHECKS.key)


def test_a_model_of_another_arm_is_built_from_its_own_section(tmp_path: Path) -> None:
    """A model file names its network; the file of an earlier version is of the job's own."""
    store, other = Store(tmp_path / "store"), Model(name="digits_cnn", options={"activation": "softplus"})
    for section, key in ((None, MODEL.key), (other, SOURCE)):
        file = store.model_file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        weights.save(build(section or RECIPE.model, (1, 8, 8), 10, 0), file, section)
    stage = make(store)
    x_BCHW = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for section, key in ((RECIPE.model, MODEL.key), (other, SOURCE)):
        expected = build(section, (1, 8, 8), 10, 0).eval()(x_BCHW)
        torch.testing.assert_close(stage.load_model(key)(x_BCHW), expected, rtol=0, atol=0)
    assert weights.read_section(store.model_file(SOURCE)) == other


@pytest.mark.parametrize("checks", [1, COUNT - 1])
def test_an_interrupted_stage_runs_only_the_remaining_checks(
    checks: int, store: Store, expected: list[dict[str, Any]]
) -> None:
    killed = make(store)
    for _ in range(checks):
        killed.step()
    assert len(finish(make(store))) == COUNT - checks
    (record,) = store.records()
    assert record["checks"] == expected
    assert record["seconds"] > 0


def test_a_stage_that_dies_before_its_record_only_writes_it(store: Store) -> None:
    obstacle = store.record_file("robust", CHECKS.key)
    obstacle.mkdir(parents=True)
    with pytest.raises(OSError):
        finish(make(store))
    obstacle.rmdir()
    assert len(finish(make(store))) == 1


def test_damaged_progress_is_set_aside_and_made_again(store: Store) -> None:
    make(store).step()
    progress = store.checkpoint_dir(judging(CHECKS).key) / "progress.json"
    progress.write_text(progress.read_text().replace("PASS", "WARN"))
    again = make(store)
    assert str(progress) in str(again.warning)
    assert len(finish(again)) == COUNT


def test_progress_of_another_list_of_checks_starts_again(store: Store, expected: list[dict[str, Any]]) -> None:
    """A version before 0.2 ran one more check, so the same count would stand for other checks."""
    file = store.checkpoint_dir(judging(CHECKS).key) / "progress.json"
    file.parent.mkdir(parents=True)
    store.write_checked(file, {"checks": [{"check": "ensemble"}] * COUNT, "seconds": 1.0, "of": COUNT + 1})
    assert len(finish(make(store))) == COUNT
    (record,) = store.records()
    assert record["checks"] == expected


def test_each_judgment_is_a_step_and_a_record(store: Store, expected: list[dict[str, Any]]) -> None:
    """Validation images only: no step reads test data."""
    strict = Judge(model=MODEL.key, measure=StrictMeasure(attack=ATTACK), split="validation")
    accuracy = Judge(model=MODEL.key, measure=AccuracyMeasure(), split="validation")
    results = finish(make(store, accuracy, strict, CHECKS))
    assert len(results) == 2 + COUNT
    records = {record["key"]: record for record in store.records()}
    assert records.keys() == {accuracy.key, strict.key, CHECKS.key}
    assert [len(json.loads(result["records"])) for result in results if "records" in result] == [1, 1, 1]
    assert records[CHECKS.key]["checks"] == expected
    clean, attacked = (records[item.key]["metrics"] for item in (accuracy, strict))
    assert 0 <= attacked["val/adv_accuracy"] <= clean["val/accuracy"] <= 1
    assert records[strict.key]["images"] == {"validation": len(load_dataset(Data()).validation)}
