"""What the sections of a study file are built from: the frozen base, strict numbers, values of any kind."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict

Param = float | int | str

#: Numbers and flags that are written as such: neither text nor a truth value stands for a number.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]


def shown(value: Any) -> str:
    """``value`` as a study file would write it, in at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scalar(value: Any) -> Any:
    if not (is_number(value) or isinstance(value, str)):
        raise ValueError(f"takes a number or text, got {shown(value)}")
    return value


def _option(value: Any) -> Any:
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(f"takes a number, text, true, false or null, got {shown(value)}")
    return value


Given = Annotated[Param, BeforeValidator(_scalar)]
Option = Annotated[Flag | Whole | Number | str | None, BeforeValidator(_option)]


class Frozen(BaseModel):
    """Base of all configuration: immutable, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def gathered(given: Any, fields: Collection[str], into: str) -> Any:
    """A section's mapping with the keys that are no fields gathered under ``into``."""
    if not isinstance(given, dict) or into in given:
        return given
    own = {key: value for key, value in given.items() if key in fields}
    return own | {into: {key: value for key, value in given.items() if key not in own}}
