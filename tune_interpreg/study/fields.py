"""Building blocks of a study file's sections: the frozen base class, strict numbers, values of any kind."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict

#: Numbers and flags as YAML has them: neither text nor a truth value stands for a number.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Boolean = Annotated[bool, Strict()]


def format_value(value: Any) -> str:
    """Return ``value`` as a study file would write it, in at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def is_number(value: Any) -> bool:
    """Return whether ``value`` is an int or a float. A bool is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_scalar(value: Any) -> Any:
    if not (is_number(value) or isinstance(value, str)):
        raise ValueError(f"takes a number or text, got {format_value(value)}")
    return value


def _check_option(value: Any) -> Any:
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(f"takes a number, text, true, false or null, got {format_value(value)}")
    return value


#: The value of a method's parameter.
Scalar = Annotated[float | int | str, BeforeValidator(_check_scalar)]

#: The value of an option of a data set or a model.
OptionValue = Annotated[Boolean | Integer | Number | str | None, BeforeValidator(_check_option)]


class Frozen(BaseModel):
    """Base of all configuration: immutable, without unknown keys, without infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def gather_extra_keys(section: Any, fields: Collection[str], into: str) -> Any:
    """Return a section's mapping with all keys that are not in ``fields`` gathered under the key ``into``."""
    if not isinstance(section, dict) or into in section:
        return section
    extra = {key: value for key, value in section.items() if key not in fields}
    return {key: value for key, value in section.items() if key in fields} | {into: extra}
