"""Templates of this folder: one file per target of ``launch``.

The head of a template is a comment that holds YAML: ``name`` and ``help`` of the command, ``store``, the default of
--store, and ``options``. Each option has the arguments of ``typer.Option``, a ``default``, and a ``rule`` for its text.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Template:
    """The text of a template and its head."""

    text: str
    head: dict[str, Any]

    def render(self, **variables: Any) -> str:
        """Return the filled template. Raises ``jinja2.UndefinedError`` if a variable is missing.

        Filters: ``shell`` joins words, quoted for a shell; ``json`` writes a value that JSON and YAML read alike.
        """
        from jinja2 import Environment, StrictUndefined

        environment = Environment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
        )
        environment.filters.update(shell=shlex.join, json=lambda value: json.dumps(value, ensure_ascii=False))
        return environment.from_string(self.text).render(variables)


def read_templates() -> Iterator[Template]:
    """Yield the templates of all targets."""
    for file in sorted(files(__name__.rpartition(".")[0]).iterdir(), key=lambda file: file.name):
        if file.name.endswith((".sh", ".yaml")):
            text = file.read_text(encoding="utf-8")
            head = text.removeprefix("{#").partition("-#}")[0]
            yield Template(text, yaml.safe_load(head))
