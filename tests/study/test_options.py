"""Options of a data set or a model are the keyword-only parameters of its builder, checked by their annotations."""

from typing import Any

import pytest

from tune_interpreg.study.file import options


def net(*, width: int, bias: bool = True, scale: float = 1.0, crop: int | None = None) -> None:
    """A builder with options of every kind."""


def untyped(*, anything=3):
    """A builder with an option without annotation."""


def test_options_are_keyword_only_parameters() -> None:
    assert list(options.list_options(net)) == ["width", "bias", "scale", "crop"]
    assert not options.list_options(lambda root: None)


@pytest.mark.parametrize("values", [{"width": 3}, {"width": 3, "bias": False, "scale": 2, "crop": None}, {"crop": 4}])
def test_values_of_the_annotated_type_are_allowed(values: dict[str, Any]) -> None:
    assert list(options.find_problems(net, values)) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 2.5, "takes a whole number, got 2.5"),
        ("width", True, "takes a whole number, got true"),
        ("bias", 1, "takes true or false, got 1"),
        ("scale", "big", 'takes a number, got "big"'),
        ("crop", "4", 'takes a whole number or null, got "4"'),
    ],
)
def test_a_value_of_another_type_is_reported(name: str, value: Any, message: str) -> None:
    assert list(options.find_problems(net, {name: value})) == [(name, message)]


def test_an_option_without_annotation_takes_any_single_value() -> None:
    assert not list(options.find_problems(untyped, {"anything": "x"}))
    assert list(options.find_problems(untyped, {"anything": [1]}))


def test_options_without_a_default_are_required() -> None:
    assert options.missing_options(net, {"bias": True}) == ["width"]
    assert options.missing_options(net, {"width": 2}) == []
