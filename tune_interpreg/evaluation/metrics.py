"""The metrics of an item: the validation of each epoch, and the final evaluation of a repeat.

Only ``final`` reads test data.
"""

from __future__ import annotations

from torch import nn

from tune_interpreg.attacks import autoattack
from tune_interpreg.attacks.pgd import Form
from tune_interpreg.data.dataset import DataError, Dataset, Split
from tune_interpreg.evaluation.measures import measure_accuracy, measure_adversarial_accuracy, measure_gradient_norms
from tune_interpreg.study import metric_names
from tune_interpreg.study.recipe import Recipe


def validate(model: nn.Module, dataset: Dataset, recipe: Recipe, *, seed: int, adversarial: bool) -> dict[str, float]:
    """Return the validation accuracy, and with ``adversarial`` the strict adversarial one; fractions in [0, 1]."""
    accuracy = measure_accuracy(model, dataset.validation, recipe.evaluation.batch_size)
    metrics: dict[str, float] = {metric_names.VAL_ACCURACY: accuracy}
    if adversarial:
        metrics[metric_names.VAL_ADV_ACCURACY] = _attack(model, dataset.validation, recipe, seed, "strict")
    return metrics


def final(model: nn.Module, dataset: Dataset, recipe: Recipe, *, seed: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the test accuracies, gradient norms on training images, and the number of images for each.

    Adversarial accuracies use both forms of the attack and, if the recipe asks for it, AutoAttack on a stratified
    subset. Raises ``DataError`` if there are fewer test images than that.
    """
    from tune_interpreg.data.dataset import load_test  # imported here, so that nothing else in this file can use it

    test, batch_size = load_test(recipe.data).to(dataset.train.y_N.device), recipe.evaluation.batch_size
    norm_images = dataset.train.subset(recipe.evaluation.gradient_samples, "grad_norm")
    norms = measure_gradient_norms(model, norm_images, batch_size)
    metrics = {
        metric_names.TEST_ACCURACY: measure_accuracy(model, test, batch_size),
        metric_names.TEST_COMPAT: _attack(model, test, recipe, seed, "compat"),
        metric_names.TEST_STRICT: _attack(model, test, recipe, seed, "strict"),
        metric_names.GRAD_NORM_LABEL: norms["label"],
        metric_names.GRAD_NORM_OTHER: norms["other"],
    }
    counts = {"test": len(test), "grad_norm": len(norm_images)}
    images = recipe.evaluation.autoattack
    if images is not None:
        if images > len(test):
            rule = f"there are {len(test):,} test images, got {images:,}; lower it or drop it"
            raise DataError(f"evaluation.autoattack: {rule}")
        metrics[metric_names.TEST_AUTOATTACK] = autoattack.measure_adversarial_accuracy(
            model,
            test.subset(images, "autoattack"),
            attack=recipe.evaluation_attack,
            seed=seed,
            batch_size=batch_size,
        )
        counts["autoattack"] = images
    return metrics, counts


def _attack(model: nn.Module, split: Split, recipe: Recipe, seed: int, form: Form) -> float:
    return measure_adversarial_accuracy(
        model,
        split,
        attack=recipe.evaluation_attack,
        form=form,
        seed=seed,
        batch_size=recipe.evaluation.batch_size,
        restarts=recipe.evaluation.restarts,
    )
