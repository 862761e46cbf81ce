"""What the paper reports: its Tables 1, 2 and 3, its chosen settings and its set-up, as data.

Noack, Ahern, Dou, Li: Does Interpretability of Neural Networks Imply Adversarial Robustness? 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.statistics.intervals import Interval
from tune_interpreg.study.config import Arm, Augment, MapSettings, Model, Study

SEEDS = 5

ACCURACY = "test/accuracy"
ADV_COMPAT = "test/adv_accuracy_compat"
ADV_STRICT = "test/adv_accuracy_strict"
GRAD_LABEL = "grad_norm/label"
GRAD_OTHER = "grad_norm/other"

#: arm → (method, the paper's title of its row); an arm of this name and method stands beside the paper's.
ARMS = {
    "standard": ("standard", "Std. Training"),
    "adversarial": ("adversarial", "Adv. Training"),
    "jacobian": ("jacobian", "Jacobian Reg."),
    "interp_robust": ("interpretation", "Interp. Reg. R."),
    "interp_permuted": ("interpretation", "Interp. Reg. R. Perm."),
    "interp_nonrobust": ("interpretation", "Interp. Reg. N.R."),
}

#: data set → arm → ((mean, half-width) of Std. Acc., of Adv. Acc.), percent, n = 5: Tables 1 and 2.
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

#: data set → arm → ((mean, half-width) of the label's gradient norm, of the other labels'), n = 5: Table 3.
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

#: data set → arm → the settings reported as best; λ_J is not reported.
SETTINGS: dict[str, dict[str, dict[str, float]]] = {
    "mnist": {
        "interp_robust": {"lambda": 0.07, "phi": 1.0},
        "interp_permuted": {"lambda": 0.05, "phi": 1.0},
        "interp_nonrobust": {"lambda": 0.33, "phi": 1.0},
    },
    "cifar10": {"interp_robust": {"lambda": 0.025, "phi": 1.0}},
}

_COLUMNS = ((ACCURACIES, (ACCURACY, ADV_COMPAT)), (GRADIENT_NORMS, (GRAD_LABEL, GRAD_OTHER)))


@dataclass(frozen=True)
class Setup:
    """Sections 4.1, 4.2: eps is an l2 radius, pixels in [0, 1]; None where the paper does not say.

    train_images, test_images: the size of the data set, none held out. model_options: (option, value) of the network.
    steps, step_size: of the evaluation's attack. maps_sigma and what follows: of SmoothGrad (Eq. 4).
    """

    train_images: int
    test_images: int
    model: str
    eps: float
    batch_size: int
    norm: str = "l2"
    model_options: tuple[tuple[str, Any], ...] = ()
    steps: int = 40
    steps_in_training: int = 40
    step_size: float | None = None
    epochs: int | None = None
    lr: float = 0.01
    momentum: float = 0.9
    lr_decay: float = 0.1
    decay_every: int = 10
    schedule: str = "step"
    maps_sigma: float = 0.15
    maps_samples: int = 50
    maps_clamp: bool = False
    maps_include_clean: bool = False
    maps_sign: str = "abs"
    device: str | None = None


#: What the paper does not state, told only where a study has it otherwise than so.
UNSTATED: dict[str, Any] = {
    "direction": "l2",
    "start": "sphere",
    "restarts": 1,
    "augmentation": "none",
    "matmul": "float32",
    "precision_in_training": "float32",
    "maps_output": "logits",
    "maps_precision": "float32",
}


SETUPS = {
    "mnist": Setup(60_000, 10_000, "mnist_cnn", eps=1.5, batch_size=64),
    "cifar10": Setup(50_000, 10_000, "cifar_cnn", eps=0.314, batch_size=100, model_options=(("fc_relu", True),)),
}


def corresponds(name: str, arm: Arm) -> bool:
    """Whether the paper has a row for an arm: one of its names, trained by that row's method."""
    return name in ARMS and ARMS[name][0] == arm.method


def title(name: str, arm: Arm) -> str:
    """How an arm is called in print: its own title, else the paper's, else its name."""
    return arm.title or (ARMS[name][1] if corresponds(name, arm) else name)


def published(dataset: str, name: str, metric: str) -> Interval | None:
    """The paper's number for a metric of this system: accuracies in percent, gradient norms per pixel unit.

    Its adversarial accuracy stands beside our compat form. None where the paper reports none.
    """
    for source, metrics in _COLUMNS:
        if metric in metrics and name in source.get(dataset, {}):
            mean, half_width = source[dataset][name][metrics.index(metric)]
            return Interval(mean, half_width, SEEDS)
    return None


def differences(study: Study, facts: Mapping[str, Collection[Any]]) -> list[str]:
    """Where a study's set-up departs from the paper's, as 'epochs: 20 (paper: not stated)'.

    facts: what the ledger says of the runs, by field of Setup (train_images, test_images, device): all values
    seen; a field without a value is left out. Returns nothing for a data set that is not in the paper.
    """
    setup = SETUPS.get(study.data.name)
    if setup is None:
        return []
    ours = _settings(study, setup) | {field: set(values) for field, values in facts.items()}
    known = [(field, theirs, theirs) for field, theirs in vars(setup).items()]
    return [
        f"{field.replace('_', ' ')}: {_printed(values)} (paper: {_printed({theirs})})"
        for field, usual, theirs in (*known, *((field, usual, None) for field, usual in UNSTATED.items()))
        if (values := ours.get(field)) and values != {usual}
    ]


def _settings(study: Study, setup: Setup) -> dict[str, set[Any]]:
    """All values that a study has of each field of Setup and UNSTATED; a cosine has no steps of its rate."""
    judged, attacked, training = study.evaluation_attack, study.attack, study.training
    rate = {"lr_decay", "decay_every"} if training.schedule == "step" else set()
    trained = training.model_dump(include={"epochs", "batch_size", "lr", "momentum", "schedule", "matmul"} | rate)
    own: dict[str, Any] = {
        "model": _model(study.model, setup),
        "norm": judged.norm,
        "eps": judged.eps,
        "steps": judged.steps,
        "step_size": judged.step,
        "restarts": study.evaluation.restarts,
        "steps_in_training": attacked.steps,
        "precision_in_training": attacked.precision,
        "direction": attacked.direction or "l2",
        "start": attacked.start,
        "augmentation": _augmentation(training.augment),
    }
    return {field: {value} for field, value in (trained | own).items()} | _maps(study)


def _model(model: Model, setup: Setup) -> str:
    """A network, with those of its options that are not the paper's."""
    own = [f"{name} {value}" for name, value in model.options.items() if (name, value) not in setup.model_options]
    return " with ".join([model.name, *([", ".join(own)] if own else [])])


def _augmentation(augment: Augment | None) -> str:
    flip, crop = (augment.flip, augment.crop) if augment else (False, 0)
    return " and ".join([*(["flip"] if flip else []), *([f"crop {crop}"] if crop else [])]) or "none"


def _maps(study: Study) -> dict[str, set[Any]]:
    """Of the maps that arms learn from, all values of each setting."""
    targets = [arm.targets for arm in study.arms.values() if arm.targets]
    return {f"maps_{name}": {getattr(one, name) for one in targets} for name in MapSettings.model_fields}


def _printed(values: Collection[Any]) -> str:
    numbers = sorted(values, key=lambda value: (str(type(value)), value))
    return " and ".join("not stated" if value is None else f"{value}" for value in numbers)
