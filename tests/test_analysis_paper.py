"""The paper's numbers stand where the paper prints them, and only there."""

import pytest

from analysis import paper
from analysis.intervals import Interval
from tune_interpreg.config import Arm, Study


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


def test_the_margin_that_the_paper_states():
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
def test_what_the_paper_does_not_report_is_none(dataset, arm, metric):
    assert paper.published(dataset, arm, metric) is None


def test_every_row_has_a_title():
    named = {arm for source in (paper.ACCURACIES, paper.GRADIENT_NORMS) for arms in source.values() for arm in arms}
    assert named == set(paper.ARMS)


def test_an_arm_corresponds_by_name_and_method():
    assert paper.corresponds("interp_robust", Arm(method="interpretation"))
    assert not paper.corresponds("interp_robust", Arm(method="jacobian"))
    assert not paper.corresponds("mine", Arm(method="interpretation"))


def test_titles():
    assert paper.title("interp_permuted", Arm(method="interpretation")) == "Interp. Reg. R. Perm."
    assert paper.title("standard", Arm(method="standard", title="Plain")) == "Plain"
    assert paper.title("mine", Arm(method="jacobian")) == "mine"


def test_differences_name_what_departs_and_nothing_else():
    study = Study(data="mnist", model="mnist_cnn", training={"epochs": 6}, arms={"standard": {"method": "standard"}})
    facts = {"train_images": [14_400], "test_images": [10_000], "device": ["cpu"], "gradient_images": [7]}
    assert paper.differences(study, facts) == [
        "train images: 14400 (paper: 60000)",
        "step size: 0.09375 (paper: not stated)",
        "epochs: 6 (paper: not stated)",
        "device: cpu (paper: not stated)",
    ]


def test_no_differences_are_told_for_other_data():
    assert paper.differences(Study(arms={"standard": {"method": "standard"}}), {"device": ["cpu"]}) == []
