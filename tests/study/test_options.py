"""Options of a data set or a model are the keyword-only parameters of its builder, checked by their annotations."""

from typing import Any, Literal

import pytest

from tune_interpreg.study.file.options import list_options
from tune_interpreg.study.notation import read_plain


def net(
    inputs,
    *,
    width: int,
    bias: bool = True,
    scale: float = 1.0,
    crop: int | None = None,
    anything=3,
    sizes: list[int] | None = None,
):
    """A builder with options of every kind; the last has no annotation."""


def test_options_are_keyword_only_parameters_and_required_without_a_default() -> None:
    required = {name: option.required for name, option in list_options(net).items()}
    assert required == {"width": True, "bias": False, "scale": False, "crop": False, "anything": False, "sizes": False}


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
        ("sizes", [None], [[1, 2]], "an option of a study is a number, text, true, false or null"),
    ],
)
def test_a_value_has_its_options_type(name: str, allowed: list[Any], refused: list[Any], rule: str) -> None:
    option = list_options(net)[name]
    assert not any(map(option.find_problem, allowed))
    assert all(str(option.find_problem(value)).startswith(rule) for value in refused)


def mixed(
    inputs,
    *,
    act: str | None = None,
    norm: Literal["no", "010"] = "no",
    size: int | str = 1,
    flag: bool | str = True,
    anything=3,
):
    """A builder with options of text, of chosen texts, and of text and other values."""


@pytest.mark.parametrize("text", ["010", "no"])
def test_a_text_without_quotes_is_refused_if_the_option_takes_its_other_meaning_too(text: str) -> None:
    options = list_options(mixed)
    assert all(options[name].find_problem(read_plain(text)) is None for name in ("act", "norm"))
    refusing = {"010": ("size", "anything"), "no": ("flag", "anything")}[text]
    for name in ("size", "flag", "anything"):
        assert (options[name].find_problem(read_plain(text)) is not None) == (name in refusing)
        assert options[name].find_problem(text) is None  # in quotes
    assert f'"{text}" for text' in str(options["anything"].find_problem(read_plain(text)))
