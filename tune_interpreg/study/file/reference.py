"""Reference of everything that a study file takes, read from field descriptions, methods and builders."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tune_interpreg import registry
from tune_interpreg.study.config import (
    Arm,
    ArmData,
    AttackEntry,
    Augment,
    Checks,
    GradientNorms,
    Interpretability,
    Study,
    Targets,
)
from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.file.messages import inner_sections
from tune_interpreg.study.file.options import Option, describe_type, list_options
from tune_interpreg.study.file.step_costs import MEASURED, STEP_COSTS
from tune_interpreg.study.file.yaml_text import dump
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.space import Condition, Matching, Range, Search

#: Heading → section of a study file, in the order of the reference.
SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": Study,
    **inner_sections(Study),
    "training.augment": Augment,
    "An entry of evaluation.attacks": AttackEntry,
    "evaluation.gradient_norms": GradientNorms,
    "evaluation.interpretability": Interpretability,
    "evaluation.checks": Checks,
    "An arm": Arm,
    "data of an arm": ArmData,
    "targets of an arm": Targets,
    "search of an arm": Search,
    "A metric in search.match": Matching,
    "A condition of search.where": Condition,
    "A range of search.space": Range,
}


#: The notation of values (see ``study.notation``) in words.
NOTATION = (
    "Numbers are decimal, such as 100, -0.5 or 1e-3. Truth values are true and false; null is no value. Everything "
    "else is text. Text that looks like another value stands in quotes. Tags such as !!int are refused."
)

#: A key of a section, an option or a parameter; its values in words; its default in YAML, or "required"; its meaning.
Entry = tuple[str, str, str, str]


def options_table() -> str:
    """Return the reference in Markdown: all sections, then the options and parameters of everything registered."""
    lines = ["# Options of a study file", "", NOTATION, ""]
    for heading, section in SECTIONS.items():
        lines += [f"## {heading}", *_describe(section)]
    for group, title in (("datasets", "Data sets"), ("models", "Models"), ("methods", "Training methods")):
        lines += [f"## {title}", ""]
        lines += [MEASURED, ""] if group == "methods" else []
        for name, documented in load_registered(group):
            lines += [f"### {name}", *_describe(documented)]
            if group == "methods" and name in STEP_COSTS:
                cost = STEP_COSTS[name]
                lines += [f"Cost of a step: {cost.measured:g} standard steps (floor {cost.floor:g}).", ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def load_registered(group: str) -> Iterator[tuple[str, Any]]:
    """Yield the names registered in ``group`` with their objects. Broken plugins are left out."""
    for name in registry.names(group):
        try:
            yield name, registry.resolve(group, name)
        except registry.BrokenPlugin:
            continue


def list_entries(documented: Any) -> list[Entry]:
    """Return the keys of a section, the parameters of a method, or the options of a builder."""
    if isinstance(documented, type) and issubclass(documented, BaseModel):
        gathered = getattr(documented, "ADDITIONAL", None)
        return [
            _field_entry(name, field)
            for name, field in documented.model_fields.items()
            if name != gathered and not field.exclude
        ]
    accepted: Mapping[str, Parameter | Option] = getattr(documented, "parameters", None) or list_options(documented)
    return [
        (name, item.allowed_values(), "required" if item.required else to_yaml(item.default), item.help)
        for name, item in accepted.items()
    ]


def doc_text(documented: Any) -> str:
    """Return a docstring as one paragraph, without the list of exceptions."""
    text = (inspect.getdoc(documented) or "").partition("\nRaises:")[0].replace("``", "")
    return " ".join(text.replace("\nArgs:\n", "\n").split())


def to_yaml(value: Any) -> str:
    """Return a value as a study file writes it on one line."""
    plain = value
    if isinstance(value, Frozen):
        plain = value.model_dump(mode="json")
    elif isinstance(value, tuple):  # entries of a list, without what they leave out
        plain = [
            item.model_dump(mode="json", exclude_none=True) if isinstance(item, Frozen) else item for item in value
        ]
    return dump([plain], default_flow_style=True, width=1000)[1:-2]


def _describe(documented: Any) -> list[str]:
    """Return the documentation and a table of all entries, in Markdown."""
    rows = [
        (f"`{key}`", takes, default if default in ("required", "see its section") else f"`{default}`", meaning)
        for key, takes, default, meaning in list_entries(documented)
    ]
    table = [("key", "takes", "default", "meaning"), ("---",) * 4, *rows] if rows else []
    columns = 4 if any(meaning for *_, meaning in rows) else 3  # a builder's docstring describes its options
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row[:columns]) + " |" for row in table]
    return ["", doc_text(documented), "", *lines, ""]


def _field_entry(name: str, field: FieldInfo) -> Entry:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        text = "required"
    else:
        text = "see its section" if isinstance(default, BaseModel) else to_yaml(default)
    return name, _field_type(field), text, field.description or ""


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
