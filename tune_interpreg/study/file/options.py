"""The options of a data set or a model: the keyword-only parameters of the function that builds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tune_interpreg.study.fields import format_value

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def names(builder: Callable[..., Any]) -> list[str]:
    """The options that ``builder`` takes."""
    return list(_parameters(builder))


def problems(builder: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(option, why) of each given option whose value is not of its annotation's type; unknown ones are left out."""
    known = _parameters(builder)
    for name, value in given.items():
        if name in known:
            try:
                TypeAdapter(known[name], config=_STRICT).validate_python(value)
            except ValidationError:
                yield name, f"takes {_named(known[name])}, got {format_value(value)}"


def missing(builder: Callable[..., Any], given: Mapping[str, Any]) -> list[str]:
    """The options without a default that are not given."""
    wanted = inspect.signature(builder).parameters
    required = (name for name in _parameters(builder) if wanted[name].default is inspect.Parameter.empty)
    return [name for name in required if name not in given]


def _parameters(builder: Callable[..., Any]) -> dict[str, Any]:
    """Each option's annotation; one without is a number, text, true, false or null."""
    found = inspect.signature(builder, eval_str=True).parameters.values()
    anything = int | float | bool | str | None
    own = {one.name: one.annotation for one in found if one.kind is one.KEYWORD_ONLY}
    return {name: anything if wanted is inspect.Parameter.empty else wanted for name, wanted in own.items()}


_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}


def _named(annotation: Any) -> str:
    """``a whole number or null`` of ``int | None``."""
    written = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return " or ".join(_WORDS.get(part.strip(), part.strip()) for part in written.split("|"))
