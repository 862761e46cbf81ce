"""A commented study file for any registered data set: every key, with its meaning as a comment."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from tune_interpreg import registry
from tune_interpreg.study.config import Arm, Data, Model, Study, Targets
from tune_interpreg.study.fields import Frozen, format_value
from tune_interpreg.study.file.options import list_options
from tune_interpreg.study.file.read import list_shipped_studies
from tune_interpreg.study.file.reference import GATHERED, describe_parameter, doc_text, load_registered, to_yaml
from tune_interpreg.study.file.rules import inner_sections, section_class
from tune_interpreg.study.file.yaml_lines import YamlFile
from tune_interpreg.study.problems import Problem, StudyError, suggest
from tune_interpreg.study.space import Range, Search

WIDTH = 110

#: Data set → the shipped study that its draft starts from, if their names differ. Others start from ``FALLBACK``.
CLOSEST = {"fashion_mnist": "mnist", "image_folder": "cifar10-small"}
FALLBACK = "digits"

HEAD = (
    "A study on {dataset}, with settings and arms of the shipped study {base}. `tune-interpreg validate` checks it, "
    "`tune-interpreg run` runs it. Keys at their defaults may be dropped. Remove # to set an option."
)


def draft_study(dataset: str) -> str:
    """Return the text of a study on ``dataset``: settings and arms of a shipped study, other keys at their defaults.

    Raises:
        StudyError: the data set is not registered, or its package cannot be imported.
    """
    names = registry.names("datasets")
    if dataset not in names:
        message = f"unknown dataset {format_value(dataset)}; {suggest(dataset, names)}"
        raise StudyError([Problem("DATASET", "", message)])
    base = CLOSEST.get(dataset, dataset if dataset in list_shipped_studies() else FALLBACK)
    raw = YamlFile(base, (files("search_spaces") / f"{base}.yaml").read_text(encoding="utf-8")).raw | {"data": dataset}
    study = Study.model_validate(raw)
    blocks = [_comment(HEAD.format(dataset=dataset, base=base))]
    try:
        for name in inner_sections(Study):
            if name != "arms":
                blocks.append(_section(name, Study.model_fields[name], getattr(study, name)))
    except registry.BrokenPlugin as error:
        raise StudyError([Problem("DATASET", "", str(error))]) from None
    blocks.append(_key("seeds", study.seeds, Study.model_fields["seeds"]))
    blocks.append(_arms(raw["arms"]))
    return "\n".join("\n".join(block) + "\n" for block in blocks)


def _section(name: str, field: FieldInfo, section: Frozen) -> list[str]:
    """Return a section with all its keys, each below a comment."""
    fields = type(section).model_fields
    comments = [doc_text(type(section))]
    keys = [line for key in fields if key not in GATHERED for line in _key(key, getattr(section, key), fields[key])]
    if isinstance(section, Data | Model):
        builder = registry.resolve("datasets" if isinstance(section, Data) else "models", section.name)
        comments.append(f"{section.name}: {doc_text(builder)}")
        keys += [f"#{key}: {_option_default(option)}" for key, option in list_options(builder).items()]
    if type(None) in get_args(field.annotation):
        comments.append(f"{name}: null leaves the section out.")
    return [*_comment(*comments), f"{name}:", *(f"  {line}" for line in keys)]


def _key(key: str, value: Any, field: FieldInfo) -> list[str]:
    """Return a key below its meaning. For a section that is left out, the comment shows its keys."""
    inner = section_class(field.annotation) if value is None else None
    example = f"Example: {to_yaml(inner())}" if inner else ""
    return [*_comment(field.description or "", example), f"{key}: {to_yaml(value)}"]


def _option_default(option: inspect.Parameter) -> str:
    """Return an option's default. Drafts do not set options, because an option that is set is part of the keys."""
    return "…  (required)" if option.default is option.empty else to_yaml(option.default)


def _arms(raw: Mapping[str, Any]) -> list[str]:
    """Return the arms below a description of everything that they take."""
    lines = []
    for title, section in (("An arm", Arm), ("targets", Targets), ("search", Search), ("A range of space", Range)):
        lines += _comment(f"{title}: {doc_text(section)}")
        for key, field in section.model_fields.items():
            if key not in GATHERED:
                lines += _comment(f"{key}: {field.description}", indent=2)
    lines += _comment("Methods and their parameters:")
    for name, method in load_registered("methods"):
        lines += _comment(f"{name}: {doc_text(method)}", indent=2)
        for key, parameter in method.parameters.items():
            lines += _comment(f"{key}: {describe_parameter(parameter)}", indent=4)
    arms = yaml.safe_dump(dict(raw), default_flow_style=None, sort_keys=False, allow_unicode=True, width=WIDTH)
    return [*lines, "arms:", *textwrap.indent(arms, "  ").splitlines()]


def _comment(*texts: str, indent: int = 0) -> list[str]:
    prefix = "# " + " " * indent
    wrapped = (
        textwrap.wrap(text, WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False)
        for text in texts
        if text
    )
    return [line for lines in wrapped for line in lines]
