"""Options of a data set or a model: the keyword-only parameters of the function that builds it."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tune_interpreg.study.fields import format_value
from tune_interpreg.study.notation import Unquoted, suggest_flag, suggest_number

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


@dataclass(frozen=True)
class Option:
    """An option of a data set or a model, with the interface of a method's ``Parameter``."""

    annotation: Any
    default: Any
    help = ""

    @property
    def required(self) -> bool:
        """True if the option has no default."""
        return self.default is inspect.Parameter.empty

    def find_problem(self, value: Any) -> str | None:
        """Return why ``value`` is refused, or None. A text that may be a number or a truth value too needs quotes."""
        kinds = set(_type_words(self.annotation))
        suggestion = suggest_number(value) if kinds & {_TYPE_NAMES[int], _TYPE_NAMES[float]} else ""
        suggestion = suggestion or (suggest_flag(value) if _TYPE_NAMES[bool] in kinds else "")
        if suggestion and isinstance(value, Unquoted) and _TYPE_NAMES[str] in kinds:
            return f'takes {self.allowed_values()}, got {value} without quotes{suggestion}, or "{value}" for text'
        try:
            TypeAdapter(self.annotation, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
        except ValidationError:
            return f"takes {self.allowed_values()}, got {format_value(value)}{suggestion}"
        if isinstance(value, list | dict):
            return f"an option of a study is a number, text, true, false or null, got {format_value(value)}"
        return None

    def allowed_values(self) -> str:
        """Return the allowed values in words."""
        return describe_type(self.annotation)


def list_options(builder: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of ``builder`` by name. Without annotation, an option takes a number, text, bool or null."""
    options = {}
    for parameter in inspect.signature(builder, eval_str=True).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            untyped = parameter.annotation is parameter.empty
            annotation = int | float | bool | str | None if untyped else parameter.annotation
            options[parameter.name] = Option(annotation, parameter.default)
    return options


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
