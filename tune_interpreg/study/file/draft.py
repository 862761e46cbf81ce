"""A study file to begin with, for any registered data set: every key, with what it means.

All that its comments say is read off the code: the docstrings of sections, data sets, models and methods, and what
parameters say of themselves.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from itertools import chain
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from tune_interpreg import registry
from tune_interpreg.study.config import Arm, Data, Model, Study, Targets
from tune_interpreg.study.fields import Frozen, format_value
from tune_interpreg.study.file.read import list_shipped_studies
from tune_interpreg.study.file.rules import section_class
from tune_interpreg.study.file.yaml_lines import YamlFile
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.study.problems import Problem, StudyError, suggest
from tune_interpreg.study.space import Range, Search

WIDTH = 110

#: The shipped study that a draft starts from, where it is not the one of the data set's own name; and for all others.
CLOSEST = {"fashion_mnist": "mnist", "image_folder": "cifar10-small"}
PLAIN = "digits"

HEAD = (
    "A study on {dataset}, with the settings and arms of the shipped study {base}. `tune-interpreg validate` checks "
    "it, `tune-interpreg run` runs it. Keys at their defaults may be dropped; options behind # may be given."
)


def draft_study(dataset: str) -> str:
    """The text of a study on ``dataset``: the settings and arms of a shipped one, every other key at its default.

    Raises ``StudyError`` where no such data set is registered, or its package cannot be imported.
    """
    if dataset not in (known := registry.names("datasets")):
        raise StudyError(
            [Problem("DATASET", "", f"unknown dataset {format_value(dataset)}; {suggest(dataset, known)}")]
        )
    base = CLOSEST.get(dataset, dataset if dataset in list_shipped_studies() else PLAIN)
    raw = YamlFile(base, (files("search_spaces") / f"{base}.yaml").read_text(encoding="utf-8")).raw | {"data": dataset}
    study = Study.model_validate(raw)
    try:
        settings = [_section(name, getattr(study, name)) for name in _sections()]
    except registry.BrokenPlugin as error:
        raise StudyError([Problem("DATASET", "", str(error))]) from None
    head = [*_comment(HEAD.format(dataset=dataset, base=base))]
    seeds = [*_comment("One final training of each arm a seed."), f"seeds: {_yaml(study.seeds)}"]
    return "\n".join("\n".join(lines) + "\n" for lines in (head, *settings, seeds, _arms(raw["arms"])))


# ------------------------------------------------------------------------ settings
def _sections() -> list[str]:
    """The keys of a study that are sections of settings."""
    return [name for name, field in Study.model_fields.items() if name != "arms" and section_class(field.annotation)]


def _section(name: str, section: Frozen) -> list[str]:
    """A section with all its keys; above each, what it means."""
    fields = type(section).model_fields
    summary, meanings = _told(type(section), fields)
    comments, options = [summary], []
    if isinstance(section, Data | Model):
        builder = registry.resolve("datasets" if isinstance(section, Data) else "models", section.name)
        own = _options(builder)
        about, of_options = _told(builder, ("root", *own))
        comments.append(f"{section.name}: {about}")
        options = [line for key in own for line in _option(key, own[key], of_options.get(key, ""))]
    if type(None) in get_args(Study.model_fields[name].annotation):
        comments.append(f"{name}: null leaves all of it out.")
    own_keys = [key for key in fields if key != "options"]
    lines = [line for key in own_keys for line in _key(key, getattr(section, key), meanings.get(key, ""), fields[key])]
    return [*_comment(*comments), f"{name}:", *(f"  {line}" for line in (*lines, *options))]


def _key(key: str, value: Any, meaning: str, field: FieldInfo) -> list[str]:
    """A key with its value, below what it means; the keys of a section that is left out are named."""
    inner = section_class(field.annotation) if value is None else None
    others = f"Or {_yaml(inner())}: {_told(inner, ())[0]}" if inner else ""
    return [*_comment(meaning, others), f"{key}: {_yaml(value)}"]


def _option(key: str, value: Any, meaning: str) -> list[str]:
    """An option as it stands where it is not given: one that is, is part of what names a result."""
    shown_value = "… (to be given)" if value is inspect.Parameter.empty else _yaml(value)
    return [*_comment(meaning), f"#{key}: {shown_value}"]


def _options(builder: Callable[..., Any]) -> dict[str, Any]:
    """The options of a data set or a model, with their defaults."""
    found = inspect.signature(builder).parameters.values()
    return {one.name: one.default for one in found if one.kind is one.KEYWORD_ONLY}


# ---------------------------------------------------------------------------- arms
def _arms(raw: Mapping[str, Any]) -> list[str]:
    """The arms as a study file writes them, below what they are made of."""
    about = [_told(Arm, ())[0], "targets: " + _doc(Targets), "search: " + _doc(Search), "A range: " + _doc(Range)]
    methods = [line for name in registry.names("methods") for line in _method(name)]
    arms = yaml.safe_dump(dict(raw), default_flow_style=None, sort_keys=False, allow_unicode=True, width=WIDTH)
    return [
        *_comment(*about, "Methods, and what they take:"),
        *methods,
        "arms:",
        *textwrap.indent(arms, "  ").splitlines(),
    ]


def _method(name: str) -> list[str]:
    """A method's loss, and its parameters."""
    with suppress(registry.BrokenPlugin):
        method = registry.resolve("methods", name)
        parameters = (_comment(f"{key}: {_parameter(one)}", indent=4) for key, one in method.parameters.items())
        return [*_comment(f"{name}: {_told(method, ())[0]}", indent=2), *chain.from_iterable(parameters)]
    return []


def _parameter(parameter: Parameter) -> str:
    if parameter.default is None:
        return f"{parameter.help} (to be given, or searched)"
    others = [one for one in parameter.choices if one != parameter.default]
    return f"{parameter.help} ({_yaml(parameter.default)} unless given{'; or ' * bool(others)}{', '.join(others)})"


# ----------------------------------------------------------------------- its words
def _doc(what: Any) -> str:
    return " ".join((inspect.getdoc(what) or "").partition("\nRaises:")[0].replace("``", "").split())


def _told(what: Any, keys: Iterable[str]) -> tuple[str, dict[str, str]]:
    """What a docstring says of the whole, and of each of ``keys``: what follows ``key: `` or ``key, another: ``."""
    name = "|".join(map(re.escape, keys)) or "$^"
    whole, *rest = re.split(rf"(?:^|(?<= ))((?:{name})(?:, (?:{name}))*): ", _doc(what))
    meanings = {}
    for names, meaning in zip(rest[::2], rest[1::2], strict=True):
        first, *others = names.split(", ")
        meanings[first] = f"{names}: {meaning}" if others else meaning
    return whole.removesuffix("Args: ").strip(), meanings


def _comment(*texts: str, indent: int = 0) -> Iterator[str]:
    first = "# " + " " * indent
    for text in filter(None, texts):
        yield from textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first, break_long_words=False)


def _yaml(value: Any) -> str:
    """A value as a study file writes it on one line."""
    plain = value.model_dump(mode="json") if isinstance(value, Frozen) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    return yaml.safe_dump([plain], default_flow_style=True, sort_keys=False, allow_unicode=True, width=1000)[1:-2]
