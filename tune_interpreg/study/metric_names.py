"""The names of all metrics, as records, TensorBoard, searches and tables use them.

``train/*``: means over the last epoch's batches. ``val/*``: on the validation split. ``test/*``: on the test split, of
repeats only. Accuracies are fractions in [0, 1]. ``grad_norm/*``: mean norms of input gradients (Table 3).
"""

from typing import Literal

TRAIN_LOSS = "train/loss"
TRAIN_CE = "train/ce"
LEARNING_RATE = "train/lr"
SAMPLES_PER_SECOND = "train/samples_per_second"

VAL_ACCURACY: Literal["val/accuracy"] = "val/accuracy"
VAL_ADV_ACCURACY: Literal["val/adv_accuracy"] = "val/adv_accuracy"

TEST_ACCURACY = "test/accuracy"
TEST_COMPAT = "test/adv_accuracy_compat"
TEST_STRICT = "test/adv_accuracy_strict"
TEST_AUTOATTACK = "test/adv_accuracy_autoattack"

GRAD_NORM_LABEL = "grad_norm/label"
GRAD_NORM_OTHER = "grad_norm/other"

# The measures of interpretability (see ``evaluation/interpretability.py``), without the split that a record puts before
# them. The name of the maps follows a similarity: ``similarity_cosine/teacher``.
ZERO_GRADIENT = "zero_gradient"
ALIGNMENT = "alignment"
ALIGNMENT_CENTERED = "alignment_centered"
ALIGNMENT_COSINE = "alignment_cosine"
ALIGNMENT_COSINE_CENTERED = "alignment_cosine_centered"
SIMILARITY_COSINE = "similarity_cosine"
SIMILARITY_SPEARMAN = "similarity_spearman"
SIMILARITY_SSIM = "similarity_ssim"
SPARSITY = "sparsity"
NORM_LOG_PROBABILITY = "norm_log_probability"
NORM_CENTERED_LOGIT = "norm_centered_logit"
STABILITY = "stability"
STABILITY_PER_LOGITS = "stability_per_logits"
DELETION = "deletion"

#: Metrics that a search may maximize. All are read on the validation split; a search never sees test data.
Selectable = Literal["val/accuracy", "val/adv_accuracy"]


#: Measures of interpretability that need no other model's maps.
OWN_MEASURES = (
    *(ZERO_GRADIENT, ALIGNMENT, ALIGNMENT_CENTERED, ALIGNMENT_COSINE, ALIGNMENT_COSINE_CENTERED, SPARSITY),
    *(NORM_LOG_PROBABILITY, NORM_CENTERED_LOGIT, STABILITY, STABILITY_PER_LOGITS, DELETION),
)

#: Metrics of judgments that a search may match. Terms of the training loss, ``train/TERM``, may be matched, too.
MATCHABLE = (
    *(VAL_ACCURACY, VAL_ADV_ACCURACY, GRAD_NORM_LABEL, GRAD_NORM_OTHER),
    *(f"val/{measure}" for measure in OWN_MEASURES),
)

#: First part of a metric's name, by split.
PREFIXES = {"train": "train", "validation": "val", "test": "test"}


def suffixed(metric: str, name: str) -> str:
    """Return the name of a metric under an entry of ``evaluation.attacks``: test/adv_accuracy_strict/linf_0.1."""
    return f"{metric}/{name}" if name else metric


def accuracy(split: str) -> str:
    """Return the name of the accuracy on a split."""
    return TEST_ACCURACY if split == "test" else VAL_ACCURACY


def adversarial_accuracy(attack: str, split: str) -> str:
    """Return the name of the accuracy under ``strict``, ``compat`` or ``autoattack`` on a split.

    On the validation split, strict needs no suffix: searches have always maximized val/adv_accuracy.
    """
    if split == "validation" and attack == "strict":
        return VAL_ADV_ACCURACY
    return f"{PREFIXES[split]}/adv_accuracy_{attack}"
