"""Options of a data set or a model: the keyword-only parameters of the function that builds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tune_interpreg.study.fields import format_value

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def list_options(builder: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the options of ``builder`` by name. One without annotation takes a number, text, true, false or null."""
    options = {}
    for parameter in inspect.signature(builder, eval_str=True).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            untyped = parameter.annotation is parameter.empty
            annotation = int | float | bool | str | None if untyped else parameter.annotation
            options[parameter.name] = parameter.replace(annotation=annotation)
    return options


def find_problems(builder: Callable[..., Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (option, problem) for each value that does not have its option's type. Unknown options are skipped."""
    options = list_options(builder)
    for name, value in values.items():
        if name not in options:
            continue
        annotation = options[name].annotation
        try:
            TypeAdapter(annotation, config=_STRICT).validate_python(value)
        except ValidationError:
            yield name, f"takes {describe_type(annotation)}, got {format_value(value)}"


def missing_options(builder: Callable[..., Any], values: Mapping[str, Any]) -> list[str]:
    """Return the options without a default that ``values`` lacks."""
    options = list_options(builder)
    return [name for name, option in options.items() if option.default is option.empty and name not in values]


def describe_type(annotation: Any) -> str:
    """Return the values of an annotation in words: ``a whole number or null`` for ``int | None``."""
    return " or ".join(dict.fromkeys(_type_words(annotation)))


def _type_words(annotation: Any) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from (str(value) for value in inner)
    elif origin is Annotated:
        yield from _type_words(inner[0])
    elif origin in (list, tuple, dict):
        yield "a mapping" if origin is dict else "a list"
    elif inner:
        for alternative in inner:
            yield from _type_words(alternative)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "a section"
    else:
        yield _TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
