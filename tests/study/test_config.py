"""Configuration is frozen, refuses what it does not know, and says which rule a value breaks."""

import math
import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tune_interpreg.study.config import (
    Arm,
    Attack,
    Augment,
    Data,
    Evaluation,
    Model,
    Named,
    Resources,
    Study,
    Targets,
    Training,
)
from tune_interpreg.study.fields import format_value
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.space import Range, Search

SECTIONS = (Data, Model, Augment, Training, Attack, Evaluation, Resources, Targets, Search)
GIVEN: dict[type[BaseModel], dict[str, Any]] = {
    Targets: {"teacher": "a"},
    Search: {"space": {"lambda": {"log_uniform": [0.1, 1]}}, "maximize": "val/accuracy"},
}
NUMBERS = [
    (section, key)
    for section in SECTIONS
    for key, field in section.model_fields.items()
    if re.search(r"\b(int|float)\b", str(field.annotation)) and key != "options"
]
LOG = {"log_uniform": [0.1, 1.0]}
STUDY = {
    "data": {"name": "digits", "root": "/somewhere"},
    "resources": {"cpus": 2},
    "seeds": [3, 4],
    "arms": {
        "standard": {"method": "standard"},
        "robust": {
            "method": "interpretation",
            "targets": {"teacher": "standard"},
            "phi": 1.0,
            "search": {"space": {"lambda": LOG}, "match_loss_of": "standard"},
        },
    },
}


def problems(section: type[BaseModel], **given: Any) -> str:
    """What is said of a section's mistakes; empty where there are none."""
    try:
        section.model_validate(GIVEN.get(section, {}) | given)
    except ValidationError as error:
        return "\n".join(one["msg"] for one in error.errors())
    return ""


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_frozen_and_refuses_unknown_keys(section: type[BaseModel]) -> None:
    made = section.model_validate(GIVEN.get(section, {}))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, next(iter(section.model_fields)), None)
    if issubclass(section, Named):
        assert section.model_validate({"unheard_of": 1}).options == {"unheard_of": 1}
    else:
        assert "Extra inputs" in problems(section, unheard_of=1)


def test_every_number_of_every_section_is_found() -> None:
    assert len(NUMBERS) == 3 + 1 + 6 + 3 + 7 + 2 + 2 + 3


@pytest.mark.parametrize(("section", "key"), NUMBERS)
@pytest.mark.parametrize("value", [True, "1", "1e-3", [1], {}, math.nan, math.inf])
def test_no_number_is_made_of_text_truth_values_or_infinity(section: type[BaseModel], key: str, value: Any) -> None:
    assert problems(section, **{key: value})


@pytest.mark.parametrize(
    ("section", "key", "good", "bad"),
    [
        (Data, "train_limit", [1, None], [0, -1, 1.5]),
        (Data, "validation", [1, None], [0]),
        (Data, "test_limit", [1, None], [0]),
        (Training, "epochs", [1], [0, 2.5, None]),
        (Training, "batch_size", [1], [0]),
        (Training, "lr", [1e-9, 1], [0, -0.1]),
        (Training, "momentum", [0, 0.999], [1, -0.1]),
        (Training, "lr_decay", [1, 0.001], [0, 1.1]),
        (Training, "decay_every", [1], [0]),
        (Attack, "norm", ["l2", "linf"], ["L2", 2, None]),
        (Attack, "eps", [1e-9, 100], [0, -1]),
        (Attack, "steps", [1], [0]),
        (Attack, "step_size", [None, 0.1], [0]),
        (Evaluation, "steps", [None, 1], [0]),
        (Evaluation, "step_size", [None, 0.1], [0]),
        (Evaluation, "batch_size", [1], [0]),
        (Evaluation, "adversarial_every", [0], [-1]),
        (Evaluation, "gradient_samples", [None, 1], [0]),
        (Resources, "cpus", [0.5], [0]),
        (Resources, "gpus", [0, 0.25], [-1]),
        (Targets, "sigma", [0, 0.15], [-0.1]),
        (Targets, "samples", [1], [0]),
        (Targets, "permute", [True, False, None, "fixed", "redrawn"], [1, "yes"]),
        (Targets, "teachers", ["shared", "per_seed"], ["own", None]),
        (Targets, "clamp", [True, False], [0, "no"]),
        (Targets, "include_clean", [True, False], [1]),
        (Targets, "sign", ["abs", "signed"], ["+"]),
        (Targets, "output", ["logits", "probabilities"], ["loss"]),
        (Training, "schedule", ["step", "cosine"], ["linear"]),
        (Training, "augment", [None, {}, {"flip": True, "crop": 4}], [True, {"crop": -1}, {"flip": 1}, {"pad": 4}]),
        (Attack, "direction", [None, "l2", "sign"], ["linf"]),
        (Attack, "start", ["sphere", "ball"], ["x"]),
        (Evaluation, "restarts", [1, 5], [0]),
        (Evaluation, "autoattack", [None, 100], [0]),
        (Search, "trials", [1], [0]),
        (Search, "pruner", ["none", "median"], ["hyperband"]),
    ],
)
def test_bounds_of_values(section: type[BaseModel], key: str, good: list[Any], bad: list[Any]) -> None:
    assert not any(problems(section, **{key: value}) for value in good)
    assert all(problems(section, **{key: value}) for value in bad)


def test_a_loss_belongs_to_a_match() -> None:
    matching = {"maximize": None, "match_loss_of": "a"}
    assert not problems(Search, **matching, loss="ce")
    assert Search(**GIVEN[Search] | matching, loss="ce").matched_metric == "train/ce"
    assert Search(**GIVEN[Search] | matching).matched_metric == "train/loss"
    assert "drop loss" in problems(Search, loss="ce")
    assert problems(Search, **matching, loss="penalty")


def test_a_bare_name_stands_for_its_section_and_further_keys_are_options() -> None:
    assert Model.model_validate("a") == Model(name="a")
    assert Model.model_validate({"name": "a", "width": 3}) == Model(name="a", options={"width": 3})
    assert Data.model_validate({"size": None, "train_limit": 3}) == Data(train_limit=3, options={"size": None})
    assert "null" in problems(Model, width=[3])


def test_the_rate_by_either_schedule() -> None:
    step = Training(lr=0.8, lr_decay=0.5, decay_every=2, epochs=4)
    assert [step.learning_rate(epoch) for epoch in range(4)] == pytest.approx([0.8, 0.8, 0.4, 0.4])
    cosine = step.model_copy(update={"schedule": "cosine"})
    assert [cosine.learning_rate(epoch) for epoch in (0, 2)] == pytest.approx([0.8, 0.4])


def test_step_size_defaults_to_two_and_a_half_radii_over_the_steps() -> None:
    assert Attack(eps=0.8, steps=10).step_length == pytest.approx(0.2)
    assert Attack(eps=0.8, steps=10, step_size=0.5).step_length == 0.5


@pytest.mark.parametrize(
    ("evaluation", "steps", "step"),
    [
        ({}, 10, 0.5),  # all as in training
        ({"steps": 10}, 10, 0.5),
        ({"steps": 40}, 40, 2.5 * 1.5 / 40),  # other steps: training's step size does not fit them
        ({"step_size": 0.3}, 10, 0.3),
        ({"steps": 40, "step_size": 0.3}, 40, 0.3),
    ],
)
def test_models_are_judged_within_trainings_radius(evaluation: dict[str, Any], steps: int, step: float) -> None:
    attack = {"norm": "linf", "eps": 1.5, "steps": 10, "step_size": 0.5}
    judged = Study.model_validate(STUDY | {"attack": attack, "evaluation": evaluation}).evaluation_attack
    assert (judged.norm, judged.eps, judged.steps) == ("linf", 1.5, steps)
    assert judged.step_length == pytest.approx(step)


# ------------------------------------------------------------------------- ranges
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "exactly one of log_uniform, uniform, choice, got none"),
        ({"uniform": [0, 1], "choice": [1]}, "got uniform and choice"),
        ({"uniform": [1, 0.1]}, "low must lie below high, got [1, 0.1]"),
        ({"uniform": [1, 1]}, "low must lie below high, got [1, 1]"),
        ({"log_uniform": [0, 1]}, "a logarithmic range starts above 0, got 0; raise it, or use uniform"),
        ({"log_uniform": [0.1]}, "takes two numbers [low, high], got [0.1]"),
        ({"log_uniform": [0.1, True]}, "takes two numbers [low, high], got [0.1, true]"),
        ({"uniform": ["1", "2"]}, 'takes two numbers [low, high], got ["1", "2"]'),
        ({"uniform": 3}, "takes two numbers [low, high], got 3"),
        ({"choice": [1, True]}, "takes a number or text, got true"),
        ({"choice": [None]}, "takes a number or text, got null"),
        ({"choice": [1, 1.0]}, "each value may stand once, got [1, 1.0]"),
    ],
)
def test_a_range_says_what_it_takes(given: dict[str, Any], said: str) -> None:
    assert said in problems(Range, **given)


def test_a_range_holds_its_ends_and_nothing_beyond() -> None:
    span = Range(uniform=(0.5, 2))
    assert span.extremes() == span.bounds == (0.5, 2.0)
    assert [span.contains(value) for value in (0.49, 0.5, 1, 2, 2.01, "1")] == [False, True, True, True, False, False]


def test_a_choice_holds_its_values() -> None:
    span = Range(choice=(0.0, "abs"))
    assert span.bounds is None
    assert span.extremes() == (0.0, "abs")
    assert [span.contains(value) for value in (0, "abs", 0.5, "signed")] == [True, True, False, False]


# ----------------------------------------------------------------- searches, arms
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"maximize": None}, "exactly one of maximize, match_loss_of, got neither"),
        ({"match_loss_of": "a"}, "exactly one of maximize, match_loss_of, got both"),
        ({"maximize": "test/accuracy"}, "'val/accuracy' or 'val/adv_accuracy'"),
        ({"maximize": None, "match_loss_of": "a", "pruner": "median"}, "never pruned; drop pruner"),
        ({"maximize": None, "match_loss_of": "a", "space": {"x": LOG, "y": LOG}}, "got a space of x, y"),
        ({"maximize": None, "match_loss_of": "a", "space": {"x": {"uniform": [1, 2]}}}, "over log_uniform"),
        ({"space": {}}, "at least 1"),
    ],
)
def test_a_search_has_one_goal_that_fits_its_space(given: dict[str, Any], said: str) -> None:
    assert said in problems(Search, **given)


def test_further_keys_of_an_arm_are_its_methods_parameters() -> None:
    arm = Arm.model_validate({"method": "m", "title": "M", "phi": 1.0, "sign": "abs"})
    assert arm.params == {"phi": 1.0, "sign": "abs"}
    assert arm == Arm(method="m", title="M", params={"phi": 1.0, "sign": "abs"})


def test_an_arm_needs_its_teacher_and_the_arm_whose_loss_it_matches() -> None:
    arms = Study.model_validate(STUDY | {"arms": STUDY["arms"]}).arms
    assert arms["standard"].needs == ()
    assert arms["robust"].needs == ("standard", "standard")


# ------------------------------------------------------------------------ studies
def test_data_may_be_just_a_name() -> None:
    assert Study.model_validate(STUDY | {"data": "mnist"}).data == Data(name="mnist")


def test_each_seed_stands_once() -> None:
    assert "each seed may stand once, got [1, 2, 1]" in problems(Study, **STUDY | {"seeds": [1, 2, 1]})
    assert problems(Study, **STUDY | {"seeds": []})


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "../x", "a\\b", "a\0"])
def test_a_studys_name_can_name_a_folder(name: str) -> None:
    assert "without slashes" in problems(Study, **STUDY | {"name": name})


def test_a_study_survives_being_written_and_read() -> None:
    study = Study.model_validate(STUDY)
    assert Study.model_validate(study.model_dump(mode="json")) == study
    assert Study.model_validate_json(study.model_dump_json()) == study


def test_the_setting_leaves_out_what_may_grow_and_where_data_lies() -> None:
    setting = Study.model_validate(STUDY).setting()
    assert set(setting) == {"data", "model", "training", "attack", "evaluation"}
    assert "root" not in setting["data"]
    grown = STUDY | {"seeds": [3, 4, 5], "data": {"name": "digits", "root": "/elsewhere"}, "name": "other"}
    assert Study.model_validate(grown).setting() == setting


# --------------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ({"low": 0}, -1, "takes a finite number of at least 0, got -1"),
        ({"high": 2}, 3, "takes a finite number of at most 2, got 3"),
        ({"low": 0, "high": 2}, 3, "takes a finite number of at least 0 and of at most 2, got 3"),
        ({}, math.inf, "takes a finite number, got Infinity"),
        ({}, math.nan, "takes a finite number, got NaN"),
        ({}, 10**400, "takes a finite number, got 1000"),
        ({}, True, "takes a number, got true"),
        ({}, "1e-3", 'takes a number, got "1e-3"'),
        ({}, None, "takes a number, got null"),
        ({}, {"a": 1}, 'takes a number, got {"a": 1}'),
        ({"choices": ("abs", "signed")}, "ABS", 'takes one of abs, signed, got "ABS"'),
        ({"choices": ("abs", "signed")}, [1], "takes one of abs, signed, got [1]"),
        ({"whole": True, "low": 1}, 1.5, "takes a whole number of at least 1, got 1.5"),
    ],
)
def test_a_parameter_says_why_it_refuses_a_value(parameter: dict[str, Any], value: Any, said: str) -> None:
    assert said in (Parameter(help="", **parameter).find_problem(value) or "")


def test_a_parameter_admits_its_bounds_and_choices() -> None:
    assert all(Parameter(help="", low=0, high=2).find_problem(value) is None for value in (0, 0.5, 2))
    assert Parameter(help="", choices=("abs",)).problem("abs") is None


def test_values_are_shown_as_a_file_writes_them_and_never_at_length() -> None:
    assert [format_value(value) for value in (None, True, 1.0, "ä", [1, "a"])] == [
        "null",
        "true",
        "1.0",
        '"ä"',
        '[1, "a"]',
    ]
    assert len(format_value("x" * 1000)) == 60
