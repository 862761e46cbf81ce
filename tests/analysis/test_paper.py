"""The paper's numbers, and the departures of a study from the paper's set-up."""

import pytest

from analysis import paper
from analysis.statistics.intervals import Interval
from tune_interpreg.study.config import Arm, Study

A = {"standard": {"method": "standard"}}


@pytest.mark.parametrize(
    ("dataset", "arm", "metric", "mean", "half_width"),
    [
        ("mnist", "standard", "test/accuracy", 99.38, 0.05),
        ("mnist", "standard", "test/adv_accuracy_compat", 61.05, 0.57),
        ("cifar10", "jacobian", "test/accuracy", 74.21, 0.24),
        ("cifar10", "interp_robust", "test/adv_accuracy_compat", 51.43, 0.39),
        ("mnist", "interp_permuted", "grad_norm/other", 1.67, 0.01),
        ("mnist", "standard", "test/adv_accuracy_strict", None, None),
        ("digits", "standard", "test/accuracy", None, None),
        ("cifar10", "standard", "grad_norm/label", None, None),
        ("mnist", "mine", "test/accuracy", None, None),
    ],
)
def test_published_numbers(dataset, arm, metric, mean, half_width):
    assert paper.published(dataset, arm, metric) == (Interval(mean, half_width, 5) if mean else None)


def test_an_arm_has_the_papers_title_if_its_name_and_method_are_the_papers():
    assert paper.title("interp_permuted", Arm(method="jacobian")) == "interp_permuted"
    assert paper.title("interp_permuted", Arm(method="interpretation")) == "Interp. Reg. R. Perm."
    assert paper.title("standard", Arm(method="standard", title="Plain")) == "Plain"
    assert paper.title("mine", Arm(method="jacobian")) == "mine"


def test_only_departures_are_differences():
    study = Study(data="mnist", model="mnist_cnn", training={"epochs": 6}, arms=A)
    facts = {"train_images": [14_400], "test_images": [10_000], "device": ["cpu"], "gradient_images": [7]}
    assert paper.differences(study, facts) == [
        "train images: 14400 (paper: 60000)",
        "step size: 0.09375 (paper: not stated)",
        "epochs: 6 (paper: not stated)",
        "device: cpu (paper: not stated)",
    ]
    assert paper.differences(Study(arms=A), facts) == [], "of other data"


def taught(**targets):
    return A | {"taught": {"method": "interpretation", "targets": {"teacher": "standard"} | targets}}


PAPERS = {"data": "mnist", "model": "mnist_cnn", "attack": {"steps": 40, "step_size": 0.5}, "arms": A}
ALWAYS = ["step size: 0.5 (paper: not stated)", "epochs: 30 (paper: not stated)"]


@pytest.mark.parametrize(
    ("settings", "differences"),
    [
        ({}, []),
        ({"attack": {"steps": 5}, "evaluation": {"steps": 40, "step_size": 0.5}}, ["steps in training: 5 (paper: 40)"]),
        ({"training": {"schedule": "cosine", "decay_every": 3}}, ["schedule: cosine (paper: step)"]),
        ({"training": {"matmul": "tf32"}}, ["matmul: tf32 (paper: not stated)"]),
        ({"training": {"nesterov": True}}, ["nesterov: True (paper: not stated)"]),
        ({"training": {"augment": {"flip": True, "crop": 4}}}, ["augmentation: flip and crop 4 (paper: not stated)"]),
        (
            {"attack": {"steps": 40, "step_size": 0.5, "start": "ball", "precision": "bfloat16"}},
            ["start: ball (paper: not stated)", "precision in training: bfloat16 (paper: not stated)"],
        ),
        (
            {"attack": {"norm": "linf", "steps": 40, "step_size": 0.5}},
            ["norm: linf (paper: l2)", "direction: sign (paper: not stated)", "start: ball (paper: not stated)"],
        ),
        ({"arms": taught()}, []),
        (
            {"arms": taught(sigma=0.3, samples=10, clamp=True)},
            ["maps sigma: 0.3 (paper: 0.15)", "maps samples: 10 (paper: 50)", "maps clamp: True (paper: False)"],
        ),
    ],
)
def test_every_departure_is_listed(settings, differences):
    assert sorted(paper.differences(Study.model_validate(PAPERS | settings), {})) == sorted(ALWAYS + differences)


@pytest.mark.parametrize(
    ("fc_relu", "differences"), [(True, []), (False, ["model: cifar_cnn with fc_relu False (paper: cifar_cnn)"])]
)
def test_options_of_the_network_are_departures(fc_relu, differences):
    study = Study(data="cifar10", model={"name": "cifar_cnn", "fc_relu": fc_relu}, arms=A)
    assert [line for line in paper.differences(study, {}) if line.startswith("model")] == differences
