"""The numbers that the paper reports: Tables 1 to 3, the chosen settings and the set-up.

Noack, Ahern, Dou, Li: Does Interpretability of Neural Networks Imply Adversarial Robustness? 2019.
"""

from collections.abc import Collection, Mapping
from typing import Any

from analysis.statistics.intervals import Interval
from tune_interpreg.study.config import Arm, Augment, MapSettings, Model, Study
from tune_interpreg.study.metric_names import GRAD_NORM_LABEL, GRAD_NORM_OTHER, TEST_ACCURACY, TEST_COMPAT

SEEDS = 5

#: Arm → (method, the title of its row in the paper). An arm of this name and method is compared with that row.
ARMS = {
    "standard": ("standard", "Std. Training"),
    "adversarial": ("adversarial", "Adv. Training"),
    "jacobian": ("jacobian", "Jacobian Reg."),
    "interp_robust": ("interpretation", "Interp. Reg. R."),
    "interp_permuted": ("interpretation", "Interp. Reg. R. Perm."),
    "interp_nonrobust": ("interpretation", "Interp. Reg. N.R."),
}

#: Tables 1 and 2: data set → arm → ((mean, half-width) of Std. Acc., of Adv. Acc.), percent, n = 5.
ACCURACIES = {
    "mnist": {
        "standard": ((99.38, 0.05), (61.05, 0.57)),
        "adversarial": ((99.29, 0.02), (90.21, 0.10)),
        "jacobian": ((99.13, 0.03), (82.86, 0.10)),
        "interp_robust": ((99.15, 0.02), (85.17, 0.21)),
        "interp_permuted": ((99.12, 0.04), (80.83, 0.34)),
        "interp_nonrobust": ((99.13, 0.05), (60.96, 1.13)),
    },
    "cifar10": {
        "standard": ((78.29, 0.26), (14.93, 1.49)),
        "adversarial": ((74.51, 0.20), (57.43, 0.15)),
        "jacobian": ((74.21, 0.24), (51.34, 0.13)),
        "interp_robust": ((74.66, 0.25), (51.43, 0.39)),
    },
}

#: Table 3: data set → arm → ((mean, half-width) of the label's gradient norm, of the other labels'), n = 5.
GRADIENT_NORMS = {
    "mnist": {
        "standard": ((7.43, 0.04), (3.93, 0.02)),
        "adversarial": ((2.48, 0.04), (1.47, 0.02)),
        "jacobian": ((1.69, 0.01), (0.68, 0.01)),
        "interp_robust": ((1.72, 0.01), (1.19, 0.01)),
        "interp_permuted": ((0.85, 0.01), (1.67, 0.01)),
        "interp_nonrobust": ((5.45, 0.00), (2.37, 0.02)),
    },
}

#: Data set → arm → the settings reported as best. The paper does not report λ_J.
SETTINGS: dict[str, dict[str, dict[str, float]]] = {
    "mnist": {
        "interp_robust": {"lambda": 0.07, "phi": 1.0},
        "interp_permuted": {"lambda": 0.05, "phi": 1.0},
        "interp_nonrobust": {"lambda": 0.33, "phi": 1.0},
    },
    "cifar10": {"interp_robust": {"lambda": 0.025, "phi": 1.0}},
}

_COLUMNS = ((ACCURACIES, (TEST_ACCURACY, TEST_COMPAT)), (GRADIENT_NORMS, (GRAD_NORM_LABEL, GRAD_NORM_OTHER)))


#: The set-up of Sections 4.1 and 4.2 on MNIST; None if the paper does not state it. The sizes are those without a
#: validation split. eps: for pixels in [0, 1]. steps, step_size: of the evaluation's attack. maps_*: SmoothGrad, Eq. 4.
_MNIST: dict[str, Any] = {
    "train_images": 60_000,
    "test_images": 10_000,
    "model": "mnist_cnn",
    "model_options": {},
    "eps": 1.5,
    "batch_size": 64,
    "norm": "l2",
    "steps": 40,
    "steps_in_training": 40,
    "step_size": None,
    "epochs": None,
    "lr": 0.01,
    "momentum": 0.9,
    "lr_decay": 0.1,
    "decay_every": 10,
    "schedule": "step",
    "maps_sigma": 0.15,
    "maps_samples": 50,
    "maps_clamp": False,
    "maps_include_clean": False,
    "maps_sign": "abs",
    "device": None,
}
_CIFAR10 = _MNIST | {"train_images": 50_000, "model": "cifar_cnn", "model_options": {"fc_relu": True}}
SETUPS = {"mnist": _MNIST, "cifar10": _CIFAR10 | {"eps": 0.314, "batch_size": 100}}

#: The usual settings of what the paper does not state. Only departures from these are reported.
UNSTATED: dict[str, Any] = {
    "direction": "l2",
    "start": "sphere",
    "restarts": 1,
    "augmentation": "none",
    "matmul": "float32",
    "optimizer": "sgd",
    "nesterov": False,
    "weight_decay": 0.0,
    "warmup_epochs": 0,
    "precision_in_training": "float32",
    "maps_output": "logits",
    "maps_precision": "float32",
}


def corresponds(name: str, arm: Arm) -> bool:
    """Return True if the paper has a row for this arm: same name, same method."""
    return name in ARMS and ARMS[name][0] == arm.method


def title(name: str, arm: Arm) -> str:
    """Return an arm's printed name: its own title, else the paper's, else its key."""
    return arm.title or (ARMS[name][1] if corresponds(name, arm) else name)


def published(dataset: str, name: str, metric: str) -> Interval | None:
    """Return the paper's number for a metric, or None: accuracies in percent, gradient norms per pixel unit.

    The paper's adversarial accuracy is compared with the compat attack.
    """
    for source, metrics in _COLUMNS:
        if metric in metrics and name in source.get(dataset, {}):
            mean, half_width = source[dataset][name][metrics.index(metric)]
            return Interval(mean, half_width, SEEDS)
    return None


def differences(study: Study, facts: Mapping[str, Collection[Any]]) -> list[str]:
    """Return the departures of a study from the paper's set-up, such as 'epochs: 20 (paper: not stated)'.

    facts: field of SETUPS (train_images, test_images, device) → its values in the records. A field without a value is
    not compared. Other data sets than the paper's have no departures.
    """
    setup = SETUPS.get(study.data.name)
    if setup is None:
        return []
    settings = _settings(study, setup["model_options"]) | {field: set(values) for field, values in facts.items()}
    return [
        f"{field.replace('_', ' ')}: {_format_values(settings[field])} (paper: {_format_values({setup.get(field)})})"
        for field, usual in (setup | UNSTATED).items()
        if settings.get(field) and settings[field] != {usual}
    ]


def _settings(study: Study, model_options: Mapping[str, Any]) -> dict[str, set[Any]]:
    """Return all values that a study has for each field of SETUPS and UNSTATED; model_options: the paper's."""
    evaluation, attack, training = study.evaluation_attack, study.attack, study.training
    fields = {"epochs", "batch_size", "lr", "momentum", "schedule", "matmul"}
    fields |= {"optimizer", "nesterov", "weight_decay", "warmup_epochs"}
    if training.schedule == "step":  # a cosine schedule has no decay
        fields |= {"lr_decay", "decay_every"}
    settings: dict[str, Any] = training.model_dump(include=fields) | {
        "model": _model(study.model, model_options),
        "norm": evaluation.norm,
        "eps": evaluation.eps,
        "steps": evaluation.steps,
        "step_size": evaluation.step_length,
        "restarts": study.evaluation.restarts,
        "steps_in_training": attack.steps,
        "precision_in_training": attack.precision,
        "direction": attack.direction_or_default,
        "start": attack.start_or_default,
        "augmentation": _augmentation(training.augment),
    }
    all_targets = [arm.targets for arm in study.arms.values() if arm.targets]
    maps = {f"maps_{name}": {getattr(targets, name) for targets in all_targets} for name in MapSettings.model_fields}
    return {field: {value} for field, value in settings.items()} | maps


def _model(model: Model, printed: Mapping[str, Any]) -> str:
    """Return a network's name and those of its options that differ from the paper's."""
    options = [f"{name} {value}" for name, value in model.options.items() if printed.get(name) != value]
    return f"{model.name} with {', '.join(options)}" if options else model.name


def _augmentation(augment: Augment | None) -> str:
    parts = ["flip"] if augment and augment.flip else []
    parts += [f"crop {augment.crop}"] if augment and augment.crop else []
    return " and ".join(parts) or "none"


def _format_values(values: Collection[Any]) -> str:
    ordered = sorted(values, key=lambda value: (str(type(value)), value))
    return " and ".join("not stated" if value is None else f"{value}" for value in ordered)
