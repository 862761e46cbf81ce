"""A commented study file for any registered data set: every key, with its meaning as a comment."""

import textwrap
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, get_args

from tune_interpreg import registry
from tune_interpreg.study.config import Data, Model, Study
from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.file.messages import inner_sections, section_class
from tune_interpreg.study.file.read import list_shipped_studies
from tune_interpreg.study.file.reference import SECTIONS, doc_text, list_entries, load_registered, to_yaml
from tune_interpreg.study.file.yaml_lines import YamlFile
from tune_interpreg.study.file.yaml_text import dump
from tune_interpreg.study.problems import Problem, StudyError

WIDTH = 110

#: Data set → the shipped study that its draft starts from, if their names differ. Others start from ``digits``.
CLOSEST = {"fashion_mnist": "mnist", "image_folder": "cifar10-small"}

HEAD = (
    "A study on {dataset}, with settings and arms of the shipped study {base}. `tune-interpreg validate` checks it, "
    "`tune-interpreg run` runs it. Keys at their defaults may be dropped. Remove # to set an option."
)


def draft_study(dataset: str) -> str:
    """Return the text of a study on ``dataset``: settings and arms of a shipped study, other keys at their defaults.

    Raises ``StudyError`` if the data set is not registered, or its package cannot be imported.
    """
    base = CLOSEST.get(dataset, dataset if dataset in list_shipped_studies() else "digits")
    raw = YamlFile(base, (files("search_spaces") / f"{base}.yaml").read_text(encoding="utf-8")).raw | {"data": dataset}
    study = Study.model_validate(raw)
    try:
        builders = {"data": registry.resolve("datasets", dataset)}
        builders["model"] = registry.resolve("models", study.model.name)
    except (registry.UnknownName, registry.BrokenPlugin) as error:
        raise StudyError([Problem("DATASET", "", str(error))]) from None
    lines = [*_comment(HEAD.format(dataset=dataset, base=base)), ""]
    for name in inner_sections(Study):
        lines += [*_section(name, getattr(study, name), builders.get(name)), ""]
    lines += [*_keys(study, "seeds"), "", *_arms(raw["arms"])]
    return "\n".join(lines) + "\n"


def _section(name: str, section: Frozen, builder: Callable[..., Any] | None) -> list[str]:
    """Return a section with all its keys, each below its meaning.

    Options of its builder are commented out, because an option that is set is part of the keys of results.
    """
    keys = _keys(section, *(entry[0] for entry in list_entries(type(section))))
    lines = _comment(doc_text(type(section)))
    if isinstance(section, Data | Model):
        lines += _comment(f"{section.name}: {doc_text(builder)}")
        keys += [f"#{key}: {default}" for key, _, default, _ in list_entries(builder)]
    if type(None) in get_args(Study.model_fields[name].annotation):
        lines += _comment(f"{name}: null leaves the section out.")
    return [*lines, f"{name}:", *(f"  {line}" for line in keys)]


def _keys(section: Frozen, *keys: str) -> list[str]:
    """Return keys of a section, each below its meaning. For an inner section, or a list of them, show its keys."""
    lines = []
    for key in keys:
        field, value = type(section).model_fields[key], getattr(section, key)
        inner = section_class(field.annotation)
        example = f" Example: {to_yaml(inner())}" if inner and value is None else ""
        meanings = _describe_keys(inner) if inner else []
        lines += [*_comment(f"{field.description}{example}"), *meanings, f"{key}: {to_yaml(value)}"]
    return lines


def _arms(raw: Mapping[str, Any]) -> list[str]:
    """Return the arms below a description of everything that they take."""
    lines = []
    for title in (
        "An arm",
        "data of an arm",
        "targets of an arm",
        "search of an arm",
        "A range of search.space",
        "A metric in search.match",
        "A condition of search.where",
    ):
        lines += _describe(title, SECTIONS[title])
    lines += _comment("Methods and their parameters:")
    for name, method in load_registered("methods"):
        lines += _describe(name, method)
    arms = dump(dict(raw), default_flow_style=None, width=WIDTH)
    return [*lines, "arms:", *textwrap.indent(arms, "  ").splitlines()]


def _describe(title: str, documented: Any) -> list[str]:
    return [*_comment(f"{title}: {doc_text(documented)}"), *_describe_keys(documented)]


def _describe_keys(documented: Any) -> list[str]:
    lines = []
    for key, takes, default, meaning in list_entries(documented):
        default = default if default == "required" else f"default {default}"
        lines += _comment(f"{key}: {meaning} ({takes}; {default})", indent=2)
    return lines


def _comment(text: str, indent: int = 0) -> list[str]:
    prefix = "# " + " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False)
