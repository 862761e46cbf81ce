"""Reference of everything that a study file takes, read from field descriptions, methods and builders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tune_interpreg import registry
from tune_interpreg.study.config import Arm, Augment, Study, Targets
from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.file.options import describe_type, list_options
from tune_interpreg.study.file.rules import inner_sections
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.space import Pick, Range, Search

#: Heading → section of a study file, in the order of the reference.
SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": Study,
    **{name: section for name, section in inner_sections(Study).items() if name != "arms"},
    "training.augment": Augment,
    "An arm": Arm,
    "targets": Targets,
    "search": Search,
    "search.pick": Pick,
    "A range of search.space": Range,
}

#: Fields that hold additional keys. Users write these keys directly in the section.
GATHERED = ("options", "params")


def options_table() -> str:
    """Return the reference in Markdown: all sections, then the options and parameters of everything registered."""
    lines = ["# Options of a study file", ""]
    for heading, section in SECTIONS.items():
        lines += [f"## {heading}", "", doc_text(section), "", *_fields_table(section), ""]
    for group, title in (("datasets", "Data sets"), ("models", "Models")):
        lines += [f"## {title}", ""]
        for name, builder in load_registered(group):
            lines += [f"### {name}", "", doc_text(builder), "", *_options_table(builder), ""]
    lines += ["## Training methods", ""]
    for name, method in load_registered("methods"):
        lines += [f"### {name}", "", doc_text(method), "", *_parameters_table(method.parameters), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def load_registered(group: str) -> Iterator[tuple[str, Any]]:
    """Yield the names registered in ``group`` with their objects. Broken plugins are left out."""
    for name in registry.names(group):
        try:
            yield name, registry.resolve(group, name)
        except registry.BrokenPlugin:
            continue


def doc_text(documented: Any) -> str:
    """Return a docstring as one paragraph, without the list of exceptions."""
    text = (inspect.getdoc(documented) or "").partition("\nRaises:")[0].replace("``", "")
    return " ".join(text.replace("\nArgs:\n", "\n").split())


def describe_parameter(parameter: Parameter) -> str:
    """Return a parameter's meaning, default and choices in one sentence."""
    if parameter.default is None:
        return f"{parameter.help} (required: set or search it)"
    others = ", ".join(choice for choice in parameter.choices if choice != parameter.default)
    return f"{parameter.help} (default {to_yaml(parameter.default)}{f'; or {others}' if others else ''})"


def to_yaml(value: Any) -> str:
    """Return a value as a study file writes it on one line."""
    plain = value.model_dump(mode="json") if isinstance(value, Frozen) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    return yaml.safe_dump([plain], default_flow_style=True, sort_keys=False, allow_unicode=True, width=1000)[1:-2]


# -------------------------------------------------------------------------- tables
def _fields_table(section: type[BaseModel]) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        if name in GATHERED:
            continue
        default = field.get_default(call_default_factory=True)
        default_text = "see its section" if isinstance(default, BaseModel) else _default_text(default)
        rows.append([f"`{name}`", _field_type(field), default_text, field.description or ""])
    return _table(["key", "takes", "default", "meaning"], rows)


def _options_table(builder: Callable[..., Any]) -> list[str]:
    rows = [
        [f"`{name}`", describe_type(option.annotation), _default_text(option.default)]
        for name, option in list_options(builder).items()
    ]
    return _table(["option", "takes", "default"], rows)


def _parameters_table(parameters: Mapping[str, Parameter]) -> list[str]:
    rows = []
    for name, parameter in parameters.items():
        default = "required" if parameter.default is None else _default_text(parameter.default)
        rows.append([f"`{name}`", parameter.allowed_values(), default, parameter.help])
    return _table(["parameter", "takes", "default", "meaning"], rows)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _default_text(default: Any) -> str:
    required = default is PydanticUndefined or default is inspect.Parameter.empty
    return "required" if required else f"`{to_yaml(default)}`"


def _field_type(field: FieldInfo) -> str:
    """Return the values that a field takes, in words. The bounds of numbers stand in the metadata of pydantic."""
    symbols = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f" {symbol} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, symbol in symbols.items()
        if hasattr(rule, name)
    ]
    return describe_type(field.annotation).replace("number", "number" + ",".join(limits), 1)
