"""What an item's metrics are: the validation of each epoch, and the final evaluation of a repeat.

The only place that reads test data is ``final``.
"""

from __future__ import annotations

from torch import nn

from tune_interpreg.attacks import autoattack
from tune_interpreg.data.dataset import DataError, Dataset, Split, load_test
from tune_interpreg.evaluation import measures as evaluation
from tune_interpreg.study.items import Recipe


def validate(model: nn.Module, dataset: Dataset, recipe: Recipe, *, seed: int, adversarial: bool) -> dict[str, float]:
    """Validation accuracy, and the strict adversarial one where asked for; fractions in [0, 1]."""
    own = recipe.evaluation
    metrics = {"val/accuracy": evaluation.measure_accuracy(model, dataset.validation, own.batch_size)}
    if adversarial:
        metrics["val/adv_accuracy"] = _adversarial(model, dataset.validation, recipe, seed, "strict")
    return metrics


def final(model: nn.Module, dataset: Dataset, recipe: Recipe, *, seed: int) -> tuple[dict[str, float], dict[str, int]]:
    """Test accuracies under both forms of the attack, and the gradient norms of Table 3 on training images.

    Where it is asked for, also the accuracy under AutoAttack, on so many test images, stratified.
    Returns the metrics and the number of images behind them. Raises ``DataError``: fewer test images than that.
    """
    test = load_test(recipe.data).to(dataset.train.y_N.device)
    sampled = dataset.train.subset(recipe.evaluation.gradient_samples, "grad_norm")
    norms = evaluation.measure_gradient_norms(model, sampled, recipe.evaluation.batch_size)
    metrics = {
        "test/accuracy": evaluation.measure_accuracy(model, test, recipe.evaluation.batch_size),
        "test/adv_accuracy_compat": _adversarial(model, test, recipe, seed, "compat"),
        "test/adv_accuracy_strict": _adversarial(model, test, recipe, seed, "strict"),
        "grad_norm/label": norms["label"],
        "grad_norm/other": norms["other"],
    }
    counts = {"test": len(test), "grad_norm": len(sampled)}
    if (images := recipe.evaluation.autoattack) is not None:
        metrics["test/adv_accuracy_autoattack"] = _autoattacked(model, test, recipe, seed, images)
        counts["autoattack"] = images
    return metrics, counts


def _adversarial(model: nn.Module, split: Split, recipe: Recipe, seed: int, form: evaluation.attacks.Form) -> float:
    return evaluation.measure_adversarial_accuracy(
        model,
        split,
        attack=recipe.evaluation_attack,
        form=form,
        seed=seed,
        batch_size=recipe.evaluation.batch_size,
        restarts=recipe.evaluation.restarts,
    )


def _autoattacked(model: nn.Module, test: Split, recipe: Recipe, seed: int, images: int) -> float:
    if images > len(test):
        raise DataError(
            f"evaluation.autoattack: there are {len(test):,} test images, got {images:,}; lower it or drop it"
        )
    return autoattack.adversarial_accuracy(
        model,
        test.subset(images, "autoattack"),
        attack=recipe.evaluation_attack,
        seed=seed,
        batch_size=recipe.evaluation.batch_size,
    )
