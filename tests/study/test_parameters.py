"""Parameters of methods: allowed values, and the one place that fills in defaults."""

import math
from typing import Any

import pytest
from helpers.studies import parse_study

from tune_interpreg import registry
from tune_interpreg.study.parameters import Parameter, recipe_params, resolve_study, with_defaults


@pytest.mark.parametrize(
    ("parameter", "allowed", "refused"),
    [
        ({}, [0, -1.5, 10**300], [math.inf, math.nan, 10**400, True, "1e-3", None, {"a": 1}]),
        ({"low": 0}, [0], [-1]),
        ({"low": 0, "high": 2}, [0, 0.5, 2], [3]),
        ({"integer": True, "low": 1}, [1, 7], [1.5, 0]),
        ({"choices": ("abs", "signed")}, ["abs"], ["ABS", [1], 1]),
    ],
)
def test_a_parameter_admits_its_bounds_and_choices_only(
    parameter: dict[str, Any], allowed: list[Any], refused: list[Any]
) -> None:
    made = Parameter(help="", **parameter)
    assert [made.find_problem(value) for value in allowed] == [None] * len(allowed)
    assert all(made.find_problem(value) for value in refused)


def test_the_message_names_rule_and_value() -> None:
    between = Parameter(help="", low=0, high=2)
    assert between.find_problem(3) == "takes a finite number of at least 0 and of at most 2, got 3"


def test_defaults_fill_what_is_not_set() -> None:
    parameters = {"a": Parameter(help=""), "b": Parameter(help="", default=0), "c": Parameter(help="", default=1)}
    assert with_defaults(parameters, {"c": 5}) == {"b": 0, "c": 5}
    assert with_defaults(parameters, {"a": 2}) == {"a": 2, "b": 0, "c": 1}


def test_a_recipe_holds_an_implicit_parameter_only_if_it_is_set() -> None:
    """So an existing method gets a parameter, and its results keep their keys."""
    parameters = {"a": Parameter(help="", default=0), "b": Parameter(help="", default=1, implicit=True)}
    assert recipe_params(parameters, {}) == {"a": 0}
    assert recipe_params(parameters, {"b": 1}) == {"a": 0, "b": 1}
    study = parse_study("arms: {a: {method: fast_adversarial}, b: {method: fast_adversarial, noise: 2}}")
    arms = resolve_study(study).arms
    assert arms["a"].params == {"alpha": 1.25, "mode": "train"}
    assert arms["b"].params == {"alpha": 1.25, "mode": "train", "noise": 2}


def test_a_resolved_study_has_every_default_except_of_searched_parameters() -> None:
    study = parse_study(
        "arms:\n  a: {method: standard}\n  b:\n    method: interpretation\n    lambda: 1\n    sign: signed\n"
        "    targets: {teacher: a}\n    search: {maximize: val/accuracy, space: {phi: {uniform: [0, 1]}}}\n",
    )
    params = resolve_study(study).arms["b"].params
    assert params.keys() == registry.load_method("interpretation").parameters.keys() - {"phi"}
    assert (params["lambda"], params["sign"]) == (1, "signed")
    assert resolve_study(resolve_study(study)) == resolve_study(study)
