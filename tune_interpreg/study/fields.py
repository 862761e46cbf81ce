"""Building blocks of a study file's sections: the frozen base class, strict numbers, values of any kind."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict

from tune_interpreg.study.notation import Unquoted

#: Numbers and flags as YAML has them: neither text nor a truth value stands for a number.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Boolean = Annotated[bool, Strict()]


def format_value(value: Any) -> str:
    """Return ``value`` as a study file would write it, in at most 60 characters."""
    text = value if isinstance(value, Unquoted) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def format_param(value: Any) -> str:
    """Return the value of a parameter for people: a number that is not whole with three digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else format_value(value)


def is_number(value: Any) -> bool:
    """Return whether ``value`` is an int or a float. A bool is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_scalar(value: Any) -> Any:
    if not (is_number(value) or isinstance(value, str)):
        raise ValueError(f"takes a number or text, got {format_value(value)}")
    return value


def check_distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return ``values``. Raise ``ValueError`` if two are equal."""
    if len(set(values)) != len(values):
        raise ValueError(f"takes each value once, got {format_value(values)}")
    return values


#: The value of a method's parameter.
Scalar = Annotated[float | int | str, BeforeValidator(_check_scalar)]

#: The value of an option of a data set or a model.
OptionValue = Boolean | Integer | Number | str | None


class Frozen(BaseModel):
    """Base of all configuration: immutable, without unknown keys, without infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
