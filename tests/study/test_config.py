"""Sections are frozen, refuse unknown keys, and derive their values as documented."""

import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tune_interpreg.study.config import Arm, Data, Model, Resources, Study, Targets, Training
from tune_interpreg.study.fields import format_value
from tune_interpreg.study.metric_names import TRAIN_CE, TRAIN_LOSS
from tune_interpreg.study.space import Range, Search

LOG = {"log_uniform": [0.1, 1.0]}
GOAL: dict[str, Any] = {"space": {"lambda": LOG}, "maximize": "val/accuracy"}
REQUIRED: dict[type[BaseModel], dict[str, Any]] = {Search: GOAL}
MATCH: dict[str, Any] = {"space": {"lambda": LOG}, "match_loss_of": "a"}
STUDY = {
    "data": {"name": "digits", "root": "/somewhere"},
    "resources": {"cpus": 2},
    "seeds": [3, 4],
    "arms": {
        "standard": {"method": "standard"},
        "robust": {
            "method": "interpretation",
            "teacher": "standard",
            "targets": {},
            "phi": 1.0,
            "search": {"space": {"lambda": LOG}, "match_loss_of": "standard"},
        },
    },
}


def problems(section: type[BaseModel], **keys: Any) -> str:
    """Return the messages about a section; empty if it is valid."""
    try:
        section.model_validate(REQUIRED.get(section, {}) | keys)
    except ValidationError as error:
        return "\n".join(problem["msg"] for problem in error.errors())
    return ""


@pytest.mark.parametrize(
    ("section", "key", "good", "bad"),
    [
        (Data, "train_limit", [1, None], [0, -1, 1.5]),
        (Training, "epochs", [1], [True, "1", [1], math.inf]),
        (Training, "lr", [0.5, 1], [True, "1", math.nan]),
        (Training, "momentum", [0, 0.999], [1, -0.1]),
        (Training, "augment", [None, {}, {"flip": True, "crop": 4}], [True, {"crop": -1}, {"flip": 1}, {"pad": 4}]),
        (Resources, "gpus", [0, 0.25, 1, 2], [-1, 1.5]),
        (Resources, "judge", [{}, {"cpus": 0.5}, {"gpus": 0}], [{"gpus": 0.5}, {"cpus": 0}, {"gpu": 0}]),
        (Targets, "permute", [True, False, None, "fixed", "redrawn"], [1, "yes"]),
    ],
)
def test_types_and_bounds_of_values(section: type[BaseModel], key: str, good: list[Any], bad: list[Any]) -> None:
    assert not any(problems(section, **{key: value}) for value in good)
    assert all(problems(section, **{key: value}) for value in bad)


def test_stages_take_the_resources_of_trainings_unless_they_have_their_own() -> None:
    resources = Resources.model_validate({"cpus": 4, "gpus": 1, "judge": {"gpus": 0.25}, "maps": {"cpus": 2}})
    of = {stage: (resources.of(stage).cpus, resources.of(stage).gpus) for stage in ("train", "judge", "maps")}
    assert of == {"train": (4, 1), "judge": (4, 0.25), "maps": (2, 1)}
    assert "maps.gpus takes GPUs, too" in problems(Resources, gpus=1, maps={"gpus": 0})


def test_a_name_alone_stands_for_its_section_and_additional_keys_are_options_or_parameters() -> None:
    assert Model.model_validate("a") == Model(name="a")
    assert Model.model_validate({"name": "a", "width": 3}) == Model(name="a", options={"width": 3})
    assert Data.model_validate({"size": None, "train_limit": 3}) == Data(train_limit=3, options={"size": None})
    assert Study.model_validate(STUDY | {"data": "mnist"}).data == Data(name="mnist")
    assert problems(Model, width=[3])
    arm = Arm.model_validate({"method": "m+n", "title": "M", "phi": 1.0, "sign": "abs"})
    assert arm == Arm(method="m + n", title="M", params={"phi": 1.0, "sign": "abs"})


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": "adamw", "momentum": 0.9},
        {"optimizer": "adamw", "nesterov": True},
        {"nesterov": True, "momentum": 0},
        {"momentum": None},
        {"warmup_epochs": 3, "epochs": 3},
        {"weight_decay": -1e-4},
        {"optimizer": "adam"},
    ],
)
def test_settings_of_training_that_do_not_go_together_are_refused(keys: dict[str, Any]) -> None:
    assert problems(Training, **keys)


def test_adamw_takes_no_momentum() -> None:
    """A section with all defaults, as a store holds it, says so and is read back."""
    training = Training(optimizer="adamw", weight_decay=0.01)
    assert training.momentum is None
    assert Training.model_validate(training.model_dump()) == training


def test_the_learning_rate_of_both_schedules() -> None:
    step = Training(lr=0.8, lr_decay=0.5, decay_every=2, epochs=4)
    assert [step.learning_rate(epoch) for epoch in range(4)] == pytest.approx([0.8, 0.8, 0.4, 0.4])
    cosine = step.model_copy(update={"schedule": "cosine"})
    assert [cosine.learning_rate(epoch) for epoch in (0, 2)] == pytest.approx([0.8, 0.4])


@pytest.mark.parametrize(
    ("evaluation", "steps", "step_length"),
    [
        ({}, 10, 0.5),  # as in training
        ({"steps": 40}, 40, 2.5 * 1.5 / 40),  # the default, because training's step size fits its number of steps
        ({"steps": 40, "step_size": 0.3}, 40, 0.3),
    ],
)
def test_models_are_judged_in_trainings_ball(evaluation: dict[str, Any], steps: int, step_length: float) -> None:
    attack = {"norm": "linf", "eps": 1.5, "steps": 10, "step_size": 0.5, "precision": "bfloat16"}
    judged = Study.model_validate(STUDY | {"attack": attack, "evaluation": evaluation}).evaluation_attack
    assert (judged.norm, judged.eps, judged.steps, judged.precision) == ("linf", 1.5, steps, "float32")
    assert judged.step_length == pytest.approx(step_length)


# ------------------------------------------------------------------------- ranges
@pytest.mark.parametrize(
    "span",
    [
        {},
        {"uniform": [0, 1], "choice": [1]},
        {"uniform": [1, 1]},
        {"uniform": 3},
        {"uniform": ["1", "2"]},
        {"log_uniform": [0, 1]},
        {"log_uniform": [0.1]},
        {"log_uniform": [0.1, True]},
        {"choice": [1, True]},
        {"choice": [None]},
        {"choice": [1, 1.0]},
    ],
)
def test_a_range_takes_one_kind_and_two_rising_bounds_or_distinct_values(span: dict[str, Any]) -> None:
    assert problems(Range, **span)


def test_a_range_contains_its_bounds_and_a_choice_its_values() -> None:
    span = Range(uniform=(0.5, 2))
    assert span.extremes() == span.bounds == (0.5, 2.0)
    assert [span.contains(value) for value in (0.49, 0.5, 1, 2, 2.01, "1")] == [False, True, True, True, False, False]
    choice = Range(choice=(0.0, "abs"))
    assert (choice.bounds, choice.extremes()) == (None, (0.0, "abs"))
    assert [choice.contains(value) for value in (0, "abs", 0.5, "signed")] == [True, True, False, False]


# ----------------------------------------------------------------------- searches
@pytest.mark.parametrize(
    "keys",
    [
        {"maximize": None},
        {"match_loss_of": "a"},
        {"maximize": "test/accuracy"},
        {"space": {}},
        {"loss": "ce"},
        MATCH | {"maximize": None, "pruner": "median"},
        MATCH | {"maximize": None, "loss": "penalty"},
        MATCH | {"maximize": None, "space": {"x": LOG, "y": LOG}},
        MATCH | {"maximize": None, "space": {"x": {"uniform": [1, 2]}}},
        MATCH | {"maximize": None, "space": {"x": LOG, "y": {"choice": [1, 2]}}, "trials": 5},
    ],
)
def test_a_search_has_one_goal_that_fits_its_space(keys: dict[str, Any]) -> None:
    assert problems(Search, **keys)


def test_a_search_counts_its_grid_and_names_what_it_matches() -> None:
    grid = Search(grid={"x": [1, 2, 3], "y": ["a", "b"]}, maximize="val/accuracy")
    assert (grid.trials, grid.fixed_params(7)) == (6, {"x": 1, "y": "b"})
    assert problems(Search, space=None, grid={"x": [1, 2]}, trials=3)
    assert Search(**MATCH).matched_metric == TRAIN_LOSS
    assert Search(**MATCH, loss="ce").matched_metric == TRAIN_CE


# ------------------------------------------------------------------ arms, studies
def test_an_arm_needs_its_teacher_and_the_arm_to_match_and_comes_after_them() -> None:
    study = Study.model_validate(STUDY | {"arms": dict(reversed(STUDY["arms"].items()))})
    assert study.arms["standard"].needs == ()
    assert study.arms["robust"].needs == ("standard", "standard")
    assert study.arms_in_order() == ["standard", "robust"]


def test_a_teacher_within_the_targets_is_that_of_the_arm() -> None:
    """Its place in study files and stores of earlier versions."""
    old = {"method": "m", "targets": {"teacher": "a", "teachers": "per_seed", "samples": 3, "permute": None}}
    new = {"method": "m", "teacher": "a", "teachers": "per_seed", "targets": {"samples": 3}}
    assert Arm.model_validate(old) == Arm.model_validate(new) == Arm(**new)
    assert Arm.model_validate({"method": "m"}).teacher is None


@pytest.mark.parametrize("name", ["", " ", "..", "../x", "a\\b", "a\0", "x" * 201])
def test_a_studys_name_is_a_folder_name_and_its_seeds_are_distinct(name: str) -> None:
    assert problems(Study, **STUDY | {"name": name})
    assert problems(Study, **STUDY | {"seeds": [1, 2, 1]})
    assert Study.model_validate(Study.model_validate(STUDY).model_dump(mode="json")) == Study.model_validate(STUDY)


def test_the_setting_excludes_what_may_grow_and_the_folder_of_the_data() -> None:
    setting = Study.model_validate(STUDY).setting()
    assert set(setting) == {"data", "model", "training", "attack"}
    grown = STUDY | {"seeds": [3, 4, 5], "data": {"name": "digits", "root": "/elsewhere"}, "name": "other"}
    assert Study.model_validate(grown).setting() == setting


def test_values_are_formatted_as_in_a_file_and_shortened() -> None:
    values = (None, True, 1.0, "ä", [1, "a"])
    assert [format_value(value) for value in values] == ["null", "true", "1.0", '"ä"', '[1, "a"]']
    assert len(format_value("x" * 1000)) == 60
