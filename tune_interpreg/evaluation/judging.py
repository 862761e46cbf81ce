"""Answers about a trained model: each measure of ``study.measures`` on a split, and the validation of each epoch.

Only ``judge`` reads test data, and only for the test split.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, Split
from tune_interpreg.evaluation.interpretability import measure_interpretability
from tune_interpreg.evaluation.measures import measure_accuracy, measure_adversarial_accuracy, measure_gradient_norms
from tune_interpreg.study import metric_names
from tune_interpreg.study.config import Attack
from tune_interpreg.study.measures import (
    AccuracyMeasure,
    AutoAttackMeasure,
    CompatMeasure,
    GradientNormsMeasure,
    InterpretabilityMeasure,
    Measure,
    Observation,
    SplitName,
    StrictMeasure,
)
from tune_interpreg.study.recipe import Recipe

#: Metrics and the number of images behind them.
Answer = tuple[dict[str, float], int]


def observe(
    model: nn.Module, dataset: Dataset, observation: Observation, *, seed: int, epoch: int, batch_size: int
) -> dict[str, float]:
    """Return the validation accuracy after an epoch, and if it is due the strict adversarial one; in [0, 1]."""
    split, metrics = dataset.validation, {}
    metrics[metric_names.accuracy("validation")] = measure_accuracy(model, split, batch_size)
    if observation.every and epoch % observation.every == 0:
        metrics |= _measure_pgd(observation.strict, model, split, "validation", seed=seed, batch_size=batch_size)
    return metrics


def judge(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    measure: Measure,
    split: SplitName,
    *,
    seed: int,
    batch_size: int,
    make_maps: Callable[[InterpretabilityMeasure, Split], Mapping[str, Tensor]] = lambda measure, images: {},
) -> Answer:
    """Return the metrics of a measure of a model on a split, and the number of images behind them.

    Args:
        recipe: of the model; it says which test images these are.
        measure: any but the honesty checks (see ``honesty``).
        seed: of the model; it draws the attacks' starts.
        batch_size: images per forward.
        make_maps: returns the maps of other models that a measure of interpretability compares with, by label.

    Raises:
        DataError: a measure takes more images than there are.
    """
    from tune_interpreg.data.dataset import load_test  # imported here, so that nothing else in this file can use it

    if split == "test":
        fingerprint = recipe.data_fingerprint.partition("-")[2]
        images = load_test(recipe.data, fingerprint).to(dataset.train.y_N.device)
    else:
        images = dataset.validation if split == "validation" else dataset.train
    settings: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    if isinstance(measure, InterpretabilityMeasure):
        count = measure.images if split == "test" else min(measure.images, len(images))
        subset = _subset(images, count, "interpretability", split)
        maps, prefix = make_maps(measure, subset), metric_names.PREFIXES[split]
        values = measure_interpretability(model, subset, maps=maps, with_deletion=measure.deletion, **settings)
        return {f"{prefix}/{name}": float(values_N.mean()) for name, values_N in values.items()}, len(subset)
    return _FUNCTIONS[type(measure)](measure, model, images, split, **settings)


def _subset(images: Split, count: int | None, purpose: str, split: SplitName) -> Split:
    """Return a stratified subset of a split; None: all. Raise ``DataError`` if there are fewer images."""
    if count is not None and count > len(images):
        raise DataError(f"{purpose}: there are {len(images):,} {split} images, got {count:,}; lower it or drop it")
    return images.subset(count, purpose)


def _answer_accuracy(
    measure: AccuracyMeasure, model: nn.Module, images: Split, split: SplitName, *, seed: int, batch_size: int
) -> Answer:
    return {metric_names.accuracy(split): measure_accuracy(model, images, batch_size)}, len(images)


def _answer_pgd(
    measure: StrictMeasure | CompatMeasure,
    model: nn.Module,
    images: Split,
    split: SplitName,
    *,
    seed: int,
    batch_size: int,
) -> Answer:
    return _measure_pgd(measure, model, images, split, seed=seed, batch_size=batch_size), len(images)


def _answer_autoattack(
    measure: AutoAttackMeasure, model: nn.Module, images: Split, split: SplitName, *, seed: int, batch_size: int
) -> Answer:
    subset = _subset(images, measure.images, "autoattack", split)
    attack = Attack(norm=measure.norm, eps=measure.eps)
    accuracy = autoattack.measure_adversarial_accuracy(model, subset, attack=attack, seed=seed, batch_size=batch_size)
    return {metric_names.adversarial_accuracy("autoattack", split): accuracy}, len(subset)


def _answer_gradient_norms(
    measure: GradientNormsMeasure, model: nn.Module, images: Split, split: SplitName, *, seed: int, batch_size: int
) -> Answer:
    subset = _subset(images, measure.images, "grad_norm", split)
    norms = measure_gradient_norms(model, subset, batch_size)
    metrics = {metric_names.GRAD_NORM_LABEL: norms["label"], metric_names.GRAD_NORM_OTHER: norms["other"]}
    return metrics, len(subset)


def _measure_pgd(
    measure: StrictMeasure | CompatMeasure, model: nn.Module, images: Split, split: SplitName, **settings: Any
) -> dict[str, float]:
    if isinstance(measure, CompatMeasure):
        settings["batch_size"] = measure.batch_size
    attacked = partial(measure_adversarial_accuracy, attack=measure.attack, restarts=measure.restarts)
    accuracy = attacked(model, images, form=measure.kind, **settings)
    return {metric_names.adversarial_accuracy(measure.kind, split): accuracy}


_FUNCTIONS: dict[type[Any], Callable[..., Answer]] = {
    AccuracyMeasure: _answer_accuracy,
    StrictMeasure: _answer_pgd,
    CompatMeasure: _answer_pgd,
    AutoAttackMeasure: _answer_autoattack,
    GradientNormsMeasure: _answer_gradient_norms,
}
