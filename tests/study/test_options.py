"""Options of a data set or a model are the keyword-only parameters of its builder, checked by their annotations."""

from typing import Any

import pytest

from tune_interpreg.study.file.options import list_options


def net(inputs, *, width: int, bias: bool = True, scale: float = 1.0, crop: int | None = None, anything=3):
    """A builder with options of every kind; the last has no annotation."""


def test_options_are_keyword_only_parameters_and_required_without_a_default() -> None:
    required = {name: option.required for name, option in list_options(net).items()}
    assert required == {"width": True, "bias": False, "scale": False, "crop": False, "anything": False}


@pytest.mark.parametrize(
    ("name", "allowed", "refused", "rule"),
    [
        ("width", [3], [2.5, True, "3"], "takes a whole number"),
        ("bias", [True], [1, "yes"], "takes true or false"),
        ("scale", [2, 0.5], ["big", True], "takes a number"),
        ("crop", [4, None], ["4", 0.5], "takes a whole number or null"),
        (
            "anything",
            ["x", 1, None, False],
            [[1], {}],
            "takes a whole number or a number or true or false or text or null",
        ),
    ],
)
def test_a_value_has_its_options_type(name: str, allowed: list[Any], refused: list[Any], rule: str) -> None:
    option = list_options(net)[name]
    assert not any(map(option.find_problem, allowed))
    assert all(str(option.find_problem(value)).startswith(rule) for value in refused)
