"""The metrics of an item: their names, their numbers of images, and the settings that reach them."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, load_dataset, load_test, split_stratified
from tune_interpreg.evaluation import metrics
from tune_interpreg.evaluation.measures import measure_gradient_norms
from tune_interpreg.evaluation.metrics import final, validate
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.zoo import digits_cnn
from tune_interpreg.study.config import Attack, Data, Evaluation
from tune_interpreg.study.recipe import Recipe

DIGITS = Data(name="digits", train_limit=30, validation=20, test_limit=60)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(DIGITS)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> Chain:
    """An untrained network, correct on a few images by chance."""
    with seeding.seeded(3, "initialisation"):
        return digits_cnn(dataset.shape, dataset.classes)


def recipe(attack: Attack, **evaluation: Any) -> Recipe:
    return Recipe(method="standard", data=DIGITS, evaluation=Evaluation(**evaluation), evaluation_attack=attack)


def test_restarts_reach_every_attack(model: Chain, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict one of the validation, and both forms of the final evaluation."""
    record = Mock(return_value=0.5)
    monkeypatch.setattr(metrics, "measure_adversarial_accuracy", record)
    validation = validate(model, dataset, recipe(Attack(), restarts=3), seed=0, adversarial=True)
    assert validation["val/adv_accuracy"] == 0.5
    assert validate(model, dataset, recipe(Attack()), seed=0, adversarial=False).keys() == {"val/accuracy"}
    final(model, dataset, recipe(Attack(), restarts=4), seed=0)
    final(model, dataset, recipe(Attack()), seed=0)
    attacks = [(call.kwargs["form"], call.kwargs["restarts"]) for call in record.call_args_list]
    assert attacks == [("strict", 3), ("compat", 4), ("strict", 4), ("compat", 1), ("strict", 1)]


def test_autoattack_runs_only_on_request(model: Chain, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """It attacks a stratified subset of the test images and adds its metric and count."""
    record = Mock(wraps=autoattack.measure_adversarial_accuracy)
    monkeypatch.setattr(autoattack, "measure_adversarial_accuracy", record)
    attack = Attack(norm="linf", eps=0.5, steps=2)
    without, counts = final(model, dataset, recipe(attack), seed=0)
    record.assert_not_called()
    with_autoattack, more_counts = final(model, dataset, recipe(attack, autoattack=20), seed=0)
    assert with_autoattack == {**without, "test/adv_accuracy_autoattack": 0.0}
    assert more_counts == {**counts, "autoattack": 20}
    test = load_test(DIGITS)
    attacked = record.call_args.args[1]
    assert torch.equal(attacked.x_NCHW, test.at(split_stratified(test.y_N, 20, "autoattack")[0]).x_NCHW)
    assert (torch.bincount(attacked.y_N) == 2).all()


def test_gradient_norms_are_of_all_classes_of_sorted_training_images(model: Chain, dataset: Dataset) -> None:
    train = dataset.train.at(dataset.train.y_N.argsort())
    settings = recipe(Attack(steps=1), gradient_samples=10)
    results, counts = final(model, replace(dataset, train=train), settings, seed=0)
    norms = measure_gradient_norms(model, train.subset(10, "grad_norm"), 100)
    assert (results["grad_norm/label"], results["grad_norm/other"]) == (norms["label"], norms["other"])
    assert counts["grad_norm"] == 10
    assert len(train.subset(10, "grad_norm").y_N.unique()) == 10


def test_autoattack_on_too_many_images_is_refused(model: Chain, dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"^evaluation\.autoattack: there are 60 test images, got 61; "):
        final(model, dataset, recipe(Attack(steps=1), autoattack=61), seed=0)
