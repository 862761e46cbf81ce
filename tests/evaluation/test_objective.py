"""The metrics of an item: which there are, on how many images, and which settings reach them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.data import dataset as data
from tune_interpreg.data.dataset import DataError, Dataset, Split
from tune_interpreg.evaluation import measures as evaluation
from tune_interpreg.evaluation import metrics as objective
from tune_interpreg.networks import piecewise_linear as models
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.config import Attack, Data, Evaluation
from tune_interpreg.study.items import Recipe

DIGITS = Data(name="digits", train_limit=30, validation=20, test_limit=60)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load(DIGITS)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> PiecewiseLinear:
    """digits_cnn, untrained: right on a few images by chance."""
    net = models.digits_cnn(dataset.shape, dataset.classes)
    models.initialize(net, seeding.generator(3, "initialisation"))
    return net


def recipe(attack: Attack, **own: Any) -> Recipe:
    return Recipe(method="standard", data=DIGITS, evaluation=Evaluation(**own), evaluation_attack=attack)


def test_restarts_reach_every_attack(model: PiecewiseLinear, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict one of the validation, and both forms of the final evaluation."""
    asked: list[tuple[str, int]] = []

    def record(*given: object, form: str, restarts: int, **settings: object) -> float:
        asked.append((form, restarts))
        return 0.5

    monkeypatch.setattr(evaluation, "adversarial_accuracy", record)
    metrics = objective.validate(model, dataset, recipe(Attack(), restarts=3), seed=0, adversarial=True)
    assert metrics["val/adv_accuracy"] == 0.5
    objective.final(model, dataset, recipe(Attack(), restarts=4), seed=0)
    objective.final(model, dataset, recipe(Attack()), seed=0)
    assert asked == [("strict", 3), ("compat", 4), ("strict", 4), ("compat", 1), ("strict", 1)]


def test_validation_is_attacked_only_where_it_is_due(model: PiecewiseLinear, dataset: Dataset) -> None:
    metrics = objective.validate(model, dataset, recipe(Attack(steps=1)), seed=0, adversarial=False)
    assert set(metrics) == {"val/accuracy"}


def test_autoattack_is_a_metric_only_where_it_is_asked_for(
    model: PiecewiseLinear, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stratified subset of the test images, and counted."""
    attack, seen = Attack(norm="linf", eps=0.5, steps=2), []
    run = autoattack.adversarial_accuracy

    def watched(model: nn.Module, split: Split, **settings: Any) -> float:
        seen.append(split)
        return run(model, split, **settings)

    monkeypatch.setattr(autoattack, "adversarial_accuracy", watched)
    without, counts = objective.final(model, dataset, recipe(attack), seed=0)
    assert "autoattack" not in counts
    assert not seen
    metrics, more = objective.final(model, dataset, recipe(attack, autoattack=20), seed=0)
    assert metrics == {**without, "test/adv_accuracy_autoattack": 0.0}
    assert more == {**counts, "autoattack": 20}
    test = data.load_test(DIGITS)
    assert torch.equal(seen[0].x_NCHW, test.at(data.stratified(test.y_N, 20, "autoattack")[0]).x_NCHW)
    assert (torch.bincount(seen[0].y_N) == 2).all()


def test_gradient_norms_are_of_all_classes_where_training_images_come_class_by_class(
    model: PiecewiseLinear, dataset: Dataset
) -> None:
    train = dataset.train.at(dataset.train.y_N.argsort())
    metrics, counts = objective.final(
        model, replace(dataset, train=train), recipe(Attack(steps=1), gradient_samples=10), seed=0
    )
    own = evaluation.gradient_norms(model, train.some(10, "grad_norm"), 100)
    assert (metrics["grad_norm/label"], metrics["grad_norm/other"]) == (own["label"], own["other"])
    assert counts["grad_norm"] == 10
    assert len(train.some(10, "grad_norm").y_N.unique()) == 10


def test_autoattack_on_more_images_than_there_are_is_an_error(model: PiecewiseLinear, dataset: Dataset) -> None:
    with pytest.raises(
        DataError, match=r"^evaluation\.autoattack: there are 60 test images, got 61; lower it or drop it$"
    ):
        objective.final(model, dataset, recipe(Attack(steps=1), autoattack=61), seed=0)
