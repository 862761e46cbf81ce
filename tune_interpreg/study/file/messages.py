"""Errors of pydantic in a user's words: rule, value and remedy."""

import difflib
import re
from fractions import Fraction
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tune_interpreg import registry
from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.fields import format_value
from tune_interpreg.study.notation import suggest_flag, suggest_number
from tune_interpreg.study.problems import Place

#: Pydantic's name of a broken rule → the rule in a user's words.
_RULES = {
    "int_type": "takes a whole number",
    "int_from_float": "takes a whole number",
    "float_type": "takes a number",
    "finite_number": "takes a finite number",
    "string_type": "takes text",
    "bool_type": "takes true or false",
    "tuple_type": "takes a list such as [0, 1]",
    "dict_type": "takes a mapping",
    "literal_error": "takes one of {expected}",
    "greater_than": "takes a number above {gt:g}",
    "greater_than_equal": "takes a number of at least {ge:g}",
    "less_than": "takes a number below {lt:g}",
    "less_than_equal": "takes a number of at most {le:g}",
    "too_short": "takes at least one value",
}

#: A number as papers write a radius: 8/255.
_FRACTION = re.compile(r"[0-9]{1,6}/[1-9][0-9]{0,5}")


def describe_error(error: Any) -> str:
    """Return the message of an error of a ``ValidationError``; its ``loc`` is the place in the study."""
    kind, value, place = error["type"], error["input"], error["loc"]
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    section = _section_at(place[:-1])
    if kind == "extra_forbidden":
        return f"unknown key; {_suggest_key(place[-1], section)}"
    if kind == "missing":
        return f"is required{_suggest_missing(place[-1], value, section)}"
    if kind == "tuple_type" and isinstance(value, dict):
        return f"takes a list, got {format_value(value)}; put it in [ ]"
    if kind == "model_type":
        fields = _section_at(place).model_fields
        example = next((name for name, field in fields.items() if field.is_required()), next(iter(fields)))
        rule = f"takes a mapping such as {{{example}: …}}"
        remedy = _suggest_mapping(value, section.model_fields.get(str(place[-1])))
    else:
        rule, remedy = _RULES.get(kind, error["msg"]).format(**error.get("ctx", {})), ""
    return f"{rule}, got {format_value(value)}{remedy or _remedy(kind, value)}"


def _suggest_key(key: str, section: type[BaseModel]) -> str:
    """Return the remedy for an unknown key of a section."""
    homes = suggest_sections(key, section)
    if section is Study and not homes:
        homes = [f"arms.ARM.{home}" for home in ([key] if key in Arm.model_fields else suggest_sections(key, Arm))]
    hint = f"did you mean {homes[0]}?" if homes else registry.suggest(key, section.model_fields)
    is_listed = section is Study and hint.startswith("there are")
    return f"{hint}; parameters of a method belong to an arm" if is_listed else hint


def _suggest_missing(key: str, content: Any, section: type[BaseModel]) -> str:
    """Return the remedy for a required key that a section lacks: its misspelled form, or its meaning."""
    extra = content.get(getattr(section, "ADDITIONAL", ""))
    written = {*content, *(extra if isinstance(extra, dict) else ())} - section.model_fields.keys()
    misspelled = difflib.get_close_matches(key, written, n=1)
    return f"; rename {misspelled[0]}" if misspelled else f". {section.model_fields[key].description}"


def _suggest_mapping(value: Any, field: FieldInfo | None) -> str:
    """Return the remedy for true or false at the place of a section that may be null."""
    if field is None or not isinstance(value, bool) or type(None) not in get_args(field.annotation):
        return ""
    return "; write {} for its defaults" if value else "; write null for none"


def _remedy(kind: str, value: Any) -> str:
    """Return what to write instead of ``value``, as the end of a message; empty if that is not known."""
    if value is None:
        return "; give it a value, or drop it"
    if kind == "float_type" and isinstance(value, str) and _FRACTION.fullmatch(value):
        return f"; write a decimal number, {float(Fraction(value)):.8g}"
    if kind in ("int_type", "float_type"):
        return suggest_number(value)
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    return suggest_flag(value) if kind == "bool_type" else ""


def _section_at(place: Place) -> type[BaseModel]:
    """Return the class of the section at ``place``."""
    model: type[BaseModel] = Study
    if place[:1] == ("arms",) and len(place) > 1:
        model, place = Arm, place[2:]  # after the arm's name
    for key in place:
        field = model.model_fields.get(str(key))
        model = (section_class(field.annotation) if field else None) or model
    return model


# ---------------------------------------------------------------------- sections
def suggest_sections(key: str, model: type[BaseModel]) -> list[str]:
    """Return the places in sections of ``model`` that take ``key``, as ``section.key``."""
    return [f"{name}.{key}" for name, section in inner_sections(model).items() if key in section.model_fields]


def inner_sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the fields of ``model`` that are sections, with their classes; without mappings of sections."""
    annotations = {name: field.annotation for name, field in model.model_fields.items()}
    classes = {name: section_class(kind) for name, kind in annotations.items() if get_origin(kind) is not dict}
    return {name: section for name, section in classes.items() if section}


def section_class(annotation: Any) -> type[BaseModel] | None:
    """Return the section's class in an annotation such as ``Search | None`` or ``dict[str, Range]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_class, get_args(annotation))), None)
