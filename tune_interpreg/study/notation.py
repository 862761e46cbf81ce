"""The notation of values in a study file: decimal numbers, true, false and null. Everything else is text.

YAML 1.1 has more: octal, hexadecimal, binary and base-60 numbers, underscores in numbers, and yes, no, on and off. A
study file reads these as text. A place that takes a number or a truth value then refuses them and names the value that
was probably meant.
"""

import math
import re
from typing import Any

#: Texts without quotes that are a truth value or null.
CONSTANTS: dict[str, bool | None] = {"": None, "~": None}
CONSTANTS |= dict.fromkeys(("null", "Null", "NULL"))
CONSTANTS |= dict.fromkeys(("true", "True", "TRUE"), True)
CONSTANTS |= dict.fromkeys(("false", "False", "FALSE"), False)

#: Truth values of YAML 1.1, and those in quotes.
FLAGS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_PREFIXED = re.compile(r"[-+]?0[xXoObB][0-9a-fA-F]+")
_BASE_60 = re.compile(r"([-+]?)([0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?)")
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|infinity|nan)", re.IGNORECASE)


class Unquoted(str):
    """A text without quotes that another notation reads as a number or a truth value: 0100, 1_000, 0x1f, 1:30, no."""


def read_plain(text: str) -> Any:
    """Return the value of a text without quotes.

    Numbers are decimal, without leading zeros, and within the range of a float. An ``Unquoted`` is of doubtful meaning.
    """
    if text in CONSTANTS:
        return CONSTANTS[text]
    if _DECIMAL.fullmatch(text) and _fits_float(text):
        return int(text) if _WHOLE.fullmatch(text) else float(text)
    return Unquoted(text) if suggest_number(text) or suggest_flag(text) else text


def suggest_number(value: Any) -> str:
    """Return the end of a message that refuses ``value`` where a number belongs; empty if it resembles no number."""
    if isinstance(value, list | tuple):
        return next(filter(None, map(suggest_number, value)), "")
    if not isinstance(value, str):
        return ""
    try:
        return _read_number(value.strip().replace("_", ""))
    except ValueError:  # no number in any notation
        return ""


def suggest_flag(value: Any) -> str:
    """Return the end of a message that refuses ``value`` where a truth value belongs; empty if it resembles none."""
    flag = FLAGS.get(value.lower()) if isinstance(value, str) else None
    return f"; write {flag}" if flag else ""


def _read_number(text: str) -> str:
    """Return the advice for a text that is a number in some notation. Raise ``ValueError`` if it is none."""
    if _NOT_FINITE.fullmatch(text):
        return "; a number must be finite"
    if len(text) > 40:
        if not (_PREFIXED.fullmatch(text) or _BASE_60.fullmatch(text)):
            float(text)
        return "; write a decimal number with fewer digits"
    if _PREFIXED.fullmatch(text):
        return f"; write {int(text, 0)}"
    base_60 = _BASE_60.fullmatch(text)
    if base_60:
        *high, low = base_60[2].split(":")
        total = 0
        for digits in high:
            total = 60 * total + int(digits)
        rest = float(low) if "." in low else int(low)
        return f"; write a decimal number, {base_60[1]}{60 * total + rest} if base 60 was meant"
    number = float(text)
    if not _fits_float(text):
        return "; a float cannot hold it, write a number from 2.3e-308 to 1.7e308"
    is_whole = re.fullmatch(r"[-+]?\d+", text)
    octal = int(text, 8) if _OCTAL.fullmatch(text) else number
    meant = f" (or {octal} if octal was meant)" if octal != number else ""
    return f"; write {int(text) if is_whole else number}{meant}"


def _fits_float(text: str) -> bool:
    """Return whether a decimal number is within the range of a float: neither infinite nor rounded to 0."""
    number = float(text)
    return math.isfinite(number) and (number != 0 or not re.search(r"[1-9]", re.split("[eE]", text)[0]))
