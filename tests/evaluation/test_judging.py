"""Judgments: the names of their metrics, their numbers of images, and the settings that reach them."""

from dataclasses import replace
from functools import partial
from typing import Any, get_args
from unittest.mock import Mock

import pytest
import torch

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, load_dataset, load_test, split_stratified
from tune_interpreg.evaluation import judging
from tune_interpreg.evaluation.measures import measure_accuracy, measure_adversarial_accuracy, measure_gradient_norms
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.zoo import digits_cnn
from tune_interpreg.study.config import Attack, Data
from tune_interpreg.study.measures import (
    AccuracyMeasure,
    AutoAttackMeasure,
    ChecksMeasure,
    CompatMeasure,
    GradientNormsMeasure,
    InterpretabilityMeasure,
    Measure,
    Observation,
    SplitName,
    StrictMeasure,
)
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


ATTACK = Attack(norm="linf", eps=0.5, steps=2)


def answer(model: Chain, dataset: Dataset, measure: Measure, split: SplitName) -> judging.Answer:
    recipe = Recipe(method="standard", data=DIGITS)
    return judging.judge(model, dataset, recipe, measure, split, seed=0, batch_size=500)


def test_each_measure_names_its_metric_and_counts_its_images(model: Chain, dataset: Dataset) -> None:
    test = load_test(DIGITS)
    strict, compat = StrictMeasure(attack=ATTACK), CompatMeasure(attack=ATTACK, batch_size=7)
    settings: dict[str, Any] = {"attack": ATTACK, "seed": 0}
    attacked = partial(measure_adversarial_accuracy, model, **settings)
    for measure, split, name, value, images in (
        (AccuracyMeasure(), "validation", "val/accuracy", measure_accuracy(model, dataset.validation, 9), 20),
        (AccuracyMeasure(), "test", "test/accuracy", measure_accuracy(model, test, 9), 60),
        (strict, "validation", "val/adv_accuracy", attacked(dataset.validation, form="strict", batch_size=9), 20),
        (strict, "test", "test/adv_accuracy_strict", attacked(test, form="strict", batch_size=9), 60),
        (compat, "test", "test/adv_accuracy_compat", attacked(test, form="compat", batch_size=7), 60),
    ):
        assert answer(model, dataset, measure, split) == ({name: value}, images)


def test_restarts_reach_every_attack(model: Chain, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the observation, and of both forms of the evaluation."""
    record = Mock(return_value=0.5)
    monkeypatch.setattr(judging, "measure_adversarial_accuracy", record)
    observation = Observation(strict=StrictMeasure(attack=ATTACK, restarts=3), every=1)
    metrics = judging.observe(model, dataset, observation, seed=0, epoch=1, batch_size=500)
    assert metrics["val/adv_accuracy"] == 0.5
    answer(model, dataset, CompatMeasure(attack=ATTACK, restarts=4, batch_size=500), "test")
    answer(model, dataset, StrictMeasure(attack=ATTACK, restarts=5), "test")
    assert [(call.kwargs["form"], call.kwargs["restarts"]) for call in record.call_args_list] == [
        ("strict", 3),
        ("compat", 4),
        ("strict", 5),
    ]


@pytest.mark.parametrize(("every", "attacked"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (9, [])])
def test_an_observation_is_attacked_every_nth_epoch(
    every: int, attacked: list[int], model: Chain, dataset: Dataset
) -> None:
    observation = Observation(strict=StrictMeasure(attack=ATTACK), every=every)
    seen = {
        epoch: judging.observe(model, dataset, observation, seed=0, epoch=epoch, batch_size=500)
        for epoch in (1, 2, 3, 4)
    }
    assert [epoch for epoch, metrics in seen.items() if "val/adv_accuracy" in metrics] == attacked
    assert all("val/accuracy" in metrics for metrics in seen.values())


def test_autoattack_takes_a_stratified_subset(model: Chain, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Mock(wraps=autoattack.measure_adversarial_accuracy)
    monkeypatch.setattr(autoattack, "measure_adversarial_accuracy", record)
    measure = AutoAttackMeasure(norm="linf", eps=0.5, images=20)
    assert answer(model, dataset, measure, "test") == ({"test/adv_accuracy_autoattack": 0.0}, 20)
    test, attacked = load_test(DIGITS), record.call_args.args[1]
    assert torch.equal(attacked.x_NCHW, test.at(split_stratified(test.y_N, 20, "autoattack")[0]).x_NCHW)
    assert (torch.bincount(attacked.y_N) == 2).all()
    assert (record.call_args.kwargs["attack"].norm, record.call_args.kwargs["attack"].eps) == ("linf", 0.5)


def test_gradient_norms_are_of_all_classes_of_sorted_training_images(model: Chain, dataset: Dataset) -> None:
    train = dataset.train.at(dataset.train.y_N.argsort())
    metrics, images = answer(model, replace(dataset, train=train), GradientNormsMeasure(images=10), "train")
    norms = measure_gradient_norms(model, train.subset(10, "grad_norm"), 100)
    assert metrics == {"grad_norm/label": norms["label"], "grad_norm/other": norms["other"]}
    assert images == 10
    assert len(train.subset(10, "grad_norm").y_N.unique()) == 10


def test_more_images_than_there_are_are_refused(model: Chain, dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"^autoattack: there are 60 test images, got 61; "):
        answer(model, dataset, AutoAttackMeasure(norm="l2", eps=0.5, images=61), "test")


def test_every_kind_of_measure_but_the_checks_has_a_function() -> None:
    kinds = set(get_args(get_args(Measure)[0])) - {ChecksMeasure, InterpretabilityMeasure}
    assert kinds == set(judging._FUNCTIONS)
