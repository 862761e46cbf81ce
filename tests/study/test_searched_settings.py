"""Settings that a search varies: their ranges, their values in a training, and mistakes at their place."""

from typing import Any

import pytest
from helpers.studies import list_problems, parse_study
from pydantic import ValidationError

from tune_interpreg.study.config import Study
from tune_interpreg.study.file.yaml_text import dump
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.problems import StudyError
from tune_interpreg.study.setting import arm_setting
from tune_interpreg.study.space import Range

HEAD = """
model: {name: resnet18, width: 8}
training: {epochs: 3, lr: 0.05, batch_size: 32}
arms:
  standard: {method: standard}
"""


def text(space: str, goal: str = "maximize: val/accuracy", arm: str = "", kind: str = "space") -> str:
    return f"{HEAD}  a: {{method: adversarial{arm}, search: {{{kind}: {{{space}}}, {goal}}}}}\n"


def study(*args: str, **keys: str) -> Study:
    return parse_study(text(*args, **keys))


def problems(*args: str, **keys: str) -> list[str]:
    return list_problems(text(*args, **keys))


# ------------------------------------------------------------------------ ranges
@pytest.mark.parametrize(
    ("span", "inside", "outside", "middle"),
    [
        ({"int": [1, 9]}, [1, 5, 9], [0, 10, 1.5, True, "5"], 5),
        ({"int": [1, 9], "step": 4}, [1, 5, 9], [2, 3, 4], 5),
        ({"log_int": [1, 64]}, [1, 7, 64], [0, 65, 7.5], 8),
        ({"uniform": [0, 1], "step": 0.1}, [0.0, 0.3, 0.7, 1.0], [0.25, 1.1], 0.5),
        ({"log_uniform": [0.01, 1.0]}, [0.01, 0.5], [0.001, 2.0], 0.1),
        ({"choice": [True, False]}, [True, False], [1, 0, "true"], False),
        ({"choice": [1, 2.5, "x"]}, [1, 2.5, "x"], [True, 2], 2.5),
    ],
)
def test_values_of_a_range(span: dict[str, Any], inside: list[Any], outside: list[Any], middle: Any) -> None:
    checked = Range.model_validate(span)
    assert all(checked.contains(value) for value in inside)
    assert not any(checked.contains(value) for value in outside)
    assert checked.middle() == pytest.approx(middle)
    assert checked.contains(checked.middle())


@pytest.mark.parametrize(
    "span",
    [
        {"int": [1, 8], "step": 2},
        {"int": [1, 9], "step": 0.5},
        {"int": [1.0, 9]},
        {"log_int": [0, 9]},
        {"log_uniform": [0.1, 1], "step": 0.1},
        {"choice": [1, 2], "step": 1},
        {"choice": [None]},
        {"int": [1, 9], "uniform": [1, 9]},
    ],
)
def test_a_range_that_cannot_be_kept_is_refused(span: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate(span)


# ------------------------------------------------------------ values in a training
def test_searched_values_reach_the_section_that_they_name() -> None:
    of = study("training.lr: {log_uniform: [0.001, 1]}, attack.eps: {uniform: [0.1, 2]}, model.width: {int: [1, 9]}")
    setting = arm_setting(of, "a", {"training.lr": 0.5, "attack.eps": 1.0, "model.width": 4, "beta": 7.0})
    assert (setting.training.lr, setting.training.epochs) == (0.5, 3)
    assert setting.attack.eps == 1.0
    assert setting.model.options == {"width": 4}
    assert of.evaluation_attack.eps == 1.5
    assert arm_setting(of, "a", {"data.train_limit": 50}).train_limit == 50


def test_a_searched_optimizer_drops_the_momentum_of_the_study() -> None:
    of = study("training.optimizer: {choice: [sgd, adamw]}")
    assert arm_setting(of, "a", {"training.optimizer": "adamw"}).training.momentum is None
    assert arm_setting(of, "a", {"training.optimizer": "sgd"}).training == of.training


def test_a_match_may_find_the_strength_of_a_setting() -> None:
    of = study("training.weight_decay: {log_uniform: [0.0001, 0.1]}", "match_loss_of: standard")
    assert of.arms["a"].search is not None
    assert of.arms["a"].search.strength_name == "training.weight_decay"


# ---------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("space", "place", "words"),
    [
        ("training.lrr: {uniform: [0.1, 1]}", "training.lrr", "did you mean training.lr?"),
        ("lr: {uniform: [0.1, 1]}", "lr", "did you mean training.lr?"),
        ("attack.epsilon: {uniform: [0.1, 1]}", "attack.epsilon", "did you mean attack.eps?"),
        ("model.wide: {int: [1, 2]}", "model.wide", "did you mean model.width?"),
        ("evaluation.steps: {int: [1, 2]}", "evaluation.steps", "unknown setting"),
        ("training.augment: {choice: [1]}", "training.augment", "unknown setting"),
        ("training.lr: {uniform: [0, 1]}", "training.lr", "takes a number above 0, got 0"),
        ("training.momentum: {uniform: [0.5, 1]}", "training.momentum", "takes a number below 1, got 1"),
        ("training.batch_size: {uniform: [8, 16]}", "training.batch_size", "takes a whole number, got 8"),
        ("training.nesterov: {choice: [true, 2]}", "training.nesterov.choice.1", "takes true or false, got 2"),
        ("model.width: {choice: [4, wide]}", "model.width.choice.1", 'takes a whole number, got "wide"'),
        ("targets.sigma: {uniform: [0.1, 1]}", "targets.sigma", "no targets"),
        ("attack.norm: {choice: [l2, linf]}", "attack.norm", "an arm for each norm"),
        ("data.train_limit: {int: [0, 9]}", "data.train_limit", "at least 1, got 0"),
    ],
)
def test_a_mistake_in_a_searched_setting_is_reported_once_at_its_place(space: str, place: str, words: str) -> None:
    (problem,) = problems(space)
    key, _, rest = place.partition(".choice")
    quoted = f"'{key}'" if "." in key else key
    assert problem.startswith(f"study.yaml:6: arms.a.search.space.{quoted}{'.choice' + rest if rest else ''}: ")
    assert words in problem


def test_values_of_a_grid_are_checked_at_their_index() -> None:
    (problem,) = problems("training.lr: [0.1, -1]", kind="grid")
    assert problem.startswith("study.yaml:6: arms.a.search.grid.'training.lr'.1: takes a number above 0, got -1")


def test_a_combination_that_a_section_refuses_is_reported() -> None:
    (problem,) = problems("training.optimizer: {choice: [sgd, adamw]}, training.nesterov: {choice: [true, false]}")
    assert 'search.space: may propose training.optimizer "adamw", training.nesterov true: nesterov belongs' in problem
    (problem,) = problems("training.warmup_epochs: {int: [0, 3]}")
    assert "warmup_epochs must be less than the 3 epochs" in problem


def test_a_match_must_fit_its_widest_range() -> None:
    (problem,) = problems("training.lr_decay: {log_uniform: [0.1, 0.9]}", "match_loss_of: standard")
    assert "takes a number of at most 1, got 2.7" in problem
    assert "which a match of training.lr_decay may widen its range to" in problem


def test_a_setting_is_given_or_searched() -> None:
    (problem,) = problems("training.lr: {uniform: [0.1, 1]}", arm=", training: {lr: 0.1}")
    assert problem.startswith("study.yaml:6: arms.a.training.lr: is searched too")


def test_the_study_file_of_a_store_is_read_as_any_other() -> None:
    """Its arms hold whole sections, next to the settings that they search."""
    text = (
        f"{HEAD}  a: {{method: interpretation, lambda: 0.1, teacher: standard, targets: {{samples: 4}}, phi: 1.0,"
        " training: {optimizer: adamw}, attack: {steps: 3}, model: {norm: group}, search: {maximize: val/accuracy,"
        " epochs: 2, space: {training.lr: {uniform: [0.1, 1]}, targets.sigma: {uniform: [0.1, 1]}}}}\n"
    )
    of = parse_study(text)
    stored = dump(resolve_study(of).model_dump(mode="json"))
    assert parse_study(stored) == resolve_study(of)


def test_whole_numbers_of_a_method_are_searched_by_int() -> None:
    method = "method: jacobian_projections, lambda_j: 0.1, search: {maximize: val/accuracy, space: {projections: "
    assert parse_study(f"{HEAD}  a: {{{method}{{int: [1, 5]}}}}}}}}\n")
    with pytest.raises(StudyError, match=r"search it by int: \[low, high\]"):
        parse_study(f"{HEAD}  a: {{{method}{{uniform: [1, 5]}}}}}}}}\n")
