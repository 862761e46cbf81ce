"""The paper's numbers, and the departures of a study from the paper's set-up."""

import pytest

from analysis import paper
from analysis.statistics.intervals import Interval
from tune_interpreg.study.config import Arm, Study


@pytest.mark.parametrize(
    ("dataset", "arm", "metric", "mean", "half_width"),
    [
        ("mnist", "standard", "test/accuracy", 99.38, 0.05),
        ("mnist", "standard", "test/adv_accuracy_compat", 61.05, 0.57),
        ("mnist", "interp_robust", "test/adv_accuracy_compat", 85.17, 0.21),
        ("mnist", "interp_nonrobust", "test/adv_accuracy_compat", 60.96, 1.13),
        ("cifar10", "jacobian", "test/accuracy", 74.21, 0.24),
        ("cifar10", "interp_robust", "test/adv_accuracy_compat", 51.43, 0.39),
        ("mnist", "interp_permuted", "grad_norm/label", 0.85, 0.01),
        ("mnist", "interp_permuted", "grad_norm/other", 1.67, 0.01),
        ("mnist", "interp_nonrobust", "grad_norm/label", 5.45, 0.00),
    ],
)
def test_published_numbers(dataset, arm, metric, mean, half_width):
    assert paper.published(dataset, arm, metric) == Interval(mean, half_width, 5)


def test_the_difference_that_the_paper_states():
    interp, jacobian = (
        paper.published("mnist", arm, "test/adv_accuracy_compat") for arm in ("interp_robust", "jacobian")
    )
    assert interp.mean - jacobian.mean == pytest.approx(2.31)


@pytest.mark.parametrize(
    ("dataset", "arm", "metric"),
    [
        ("mnist", "standard", "test/adv_accuracy_strict"),
        ("digits", "standard", "test/accuracy"),
        ("cifar10", "standard", "grad_norm/label"),
        ("cifar10", "interp_permuted", "test/accuracy"),
        ("mnist", "mine", "test/accuracy"),
    ],
)
def test_numbers_that_the_paper_does_not_report_are_none(dataset, arm, metric):
    assert paper.published(dataset, arm, metric) is None


def test_every_row_has_a_title():
    arms = {arm for source in (paper.ACCURACIES, paper.GRADIENT_NORMS) for by_arm in source.values() for arm in by_arm}
    assert arms == set(paper.ARMS)


def test_an_arm_corresponds_by_name_and_method():
    assert paper.corresponds("interp_robust", Arm(method="interpretation"))
    assert not paper.corresponds("interp_robust", Arm(method="jacobian"))
    assert not paper.corresponds("mine", Arm(method="interpretation"))


def test_titles():
    assert paper.title("interp_permuted", Arm(method="interpretation")) == "Interp. Reg. R. Perm."
    assert paper.title("standard", Arm(method="standard", title="Plain")) == "Plain"
    assert paper.title("mine", Arm(method="jacobian")) == "mine"


def test_only_departures_are_differences():
    study = Study(data="mnist", model="mnist_cnn", training={"epochs": 6}, arms={"standard": {"method": "standard"}})
    facts = {"train_images": [14_400], "test_images": [10_000], "device": ["cpu"], "gradient_images": [7]}
    assert paper.differences(study, facts) == [
        "train images: 14400 (paper: 60000)",
        "step size: 0.09375 (paper: not stated)",
        "epochs: 6 (paper: not stated)",
        "device: cpu (paper: not stated)",
    ]


A = {"standard": {"method": "standard"}}


def taught(**targets):
    return A | {"taught": {"method": "interpretation", "targets": {"teacher": "standard"} | targets}}


PAPERS = {"data": "mnist", "model": "mnist_cnn", "attack": {"steps": 40, "step_size": 0.5}, "arms": A}
ALWAYS = ["step size: 0.5 (paper: not stated)", "epochs: 30 (paper: not stated)"]


@pytest.mark.parametrize(
    ("settings", "differences"),
    [
        ({}, []),
        ({"attack": {"steps": 40, "step_size": 0.5, "direction": "l2", "start": "sphere"}}, []),
        ({"attack": {"steps": 5}, "evaluation": {"steps": 40, "step_size": 0.5}}, ["steps in training: 5 (paper: 40)"]),
        ({"training": {"schedule": "cosine", "decay_every": 3}}, ["schedule: cosine (paper: step)"]),
        ({"training": {"matmul": "tf32"}}, ["matmul: tf32 (paper: not stated)"]),
        ({"training": {"augment": {"flip": True}}}, ["augmentation: flip (paper: not stated)"]),
        ({"training": {"augment": {"flip": True, "crop": 4}}}, ["augmentation: flip and crop 4 (paper: not stated)"]),
        ({"training": {"augment": {}}}, []),
        ({"evaluation": {"restarts": 3}}, ["restarts: 3 (paper: not stated)"]),
        (
            {"attack": {"steps": 40, "step_size": 0.5, "start": "ball", "direction": "sign", "precision": "bfloat16"}},
            [
                "direction: sign (paper: not stated)",
                "start: ball (paper: not stated)",
                "precision in training: bfloat16 (paper: not stated)",
            ],
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


def test_other_data_has_no_differences():
    assert paper.differences(Study(arms={"standard": {"method": "standard"}}), {"device": ["cpu"]}) == []
