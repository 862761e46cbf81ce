"""Options of a data set or a model are the keyword-only parameters of its builder, held to their annotations."""

from typing import Any

import pytest

from tune_interpreg.study.file import options


def net(*, width: int, bias: bool = True, scale: float = 1.0, crop: int | None = None) -> None:
    """A builder with options of every kind."""


def loose(*, anything=3):
    """A builder that says nothing of its option."""


def test_options_are_keyword_only_parameters() -> None:
    assert options.names(net) == ["width", "bias", "scale", "crop"]
    assert options.names(lambda root: None) == []


@pytest.mark.parametrize("given", [{"width": 3}, {"width": 3, "bias": False, "scale": 2, "crop": None}, {"crop": 4}])
def test_values_of_the_annotated_type_are_taken(given: dict[str, Any]) -> None:
    assert list(options.problems(net, given)) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("width", 2.5, "takes a whole number, got 2.5"),
        ("width", True, "takes a whole number, got true"),
        ("bias", 1, "takes true or false, got 1"),
        ("scale", "big", 'takes a number, got "big"'),
        ("crop", "4", 'takes a whole number or null, got "4"'),
    ],
)
def test_a_value_of_another_type_is_told(name: str, value: Any, said: str) -> None:
    assert list(options.problems(net, {name: value})) == [(name, said)]


def test_an_option_without_annotation_takes_any_single_value() -> None:
    assert not list(options.problems(loose, {"anything": "x"}))
    assert list(options.problems(loose, {"anything": [1]}))


def test_options_without_a_default_are_needed() -> None:
    assert options.missing(net, {"bias": True}) == ["width"]
    assert options.missing(net, {"width": 2}) == []
