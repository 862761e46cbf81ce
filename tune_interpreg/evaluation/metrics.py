"""The metrics of an item: the validation of each epoch, and the final evaluation of a repeat.

Only ``final`` reads test data.
"""

from functools import partial
from typing import Any

from torch import nn

from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset
from tune_interpreg.evaluation.measures import measure_accuracy, measure_adversarial_accuracy, measure_gradient_norms
from tune_interpreg.study import metric_names
from tune_interpreg.study.recipe import Recipe


def validate(model: nn.Module, dataset: Dataset, recipe: Recipe, *, seed: int, adversarial: bool) -> dict[str, float]:
    """Return the validation accuracy, and with ``adversarial`` the strict adversarial one; fractions in [0, 1]."""
    split, evaluation = dataset.validation, recipe.evaluation
    metrics: dict[str, float] = {metric_names.VAL_ACCURACY: measure_accuracy(model, split, evaluation.batch_size)}
    if adversarial:
        settings = _attack_settings(recipe, seed) | {"form": "strict", "restarts": evaluation.restarts}
        metrics[metric_names.VAL_ADV_ACCURACY] = measure_adversarial_accuracy(model, split, **settings)
    return metrics


def final(model: nn.Module, dataset: Dataset, recipe: Recipe, *, seed: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the test accuracies, gradient norms on training images, and the number of images for each.

    Adversarial accuracies use both forms of the attack and, if the recipe asks for it, AutoAttack on a stratified
    subset. Raises ``DataError`` if there are fewer test images than that.
    """
    from tune_interpreg.data.dataset import load_test  # imported here, so that nothing else in this file can use it

    settings, evaluation = _attack_settings(recipe, seed), recipe.evaluation
    test = load_test(recipe.data, recipe.data_fingerprint.partition("-")[2]).to(dataset.train.y_N.device)
    norm_images = dataset.train.subset(evaluation.gradient_samples, "grad_norm")
    norms = measure_gradient_norms(model, norm_images, evaluation.batch_size)
    pgd = partial(measure_adversarial_accuracy, model, test, restarts=evaluation.restarts, **settings)
    metrics = {
        metric_names.TEST_ACCURACY: measure_accuracy(model, test, evaluation.batch_size),
        metric_names.TEST_COMPAT: pgd(form="compat"),
        metric_names.TEST_STRICT: pgd(form="strict"),
        metric_names.GRAD_NORM_LABEL: norms["label"],
        metric_names.GRAD_NORM_OTHER: norms["other"],
    }
    counts, images = {"test": len(test), "grad_norm": len(norm_images)}, evaluation.autoattack
    if images is not None:
        if images > len(test):
            rule = f"there are {len(test):,} test images, got {images:,}; lower it or drop it"
            raise DataError(f"evaluation.autoattack: {rule}")
        subset = test.subset(images, "autoattack")
        metrics[metric_names.TEST_AUTOATTACK] = autoattack.measure_adversarial_accuracy(model, subset, **settings)
        counts["autoattack"] = images
    return metrics, counts


def _attack_settings(recipe: Recipe, seed: int) -> dict[str, Any]:
    return {"attack": recipe.evaluation_attack, "seed": seed, "batch_size": recipe.evaluation.batch_size}
