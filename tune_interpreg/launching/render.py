"""Fill the templates of this folder. Each names its parameters at its top."""

from __future__ import annotations

import json
import shlex
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **parameters: Any) -> str:
    """Return the text of a template; raises ``jinja2.UndefinedError`` if a parameter is missing.

    Filters: ``shell`` joins words, quoted for a shell; ``json`` writes a value that JSON and YAML read alike.
    """
    environment = Environment(
        loader=PackageLoader("tune_interpreg", "launching"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(shell=shlex.join, json=lambda value: json.dumps(value, ensure_ascii=False))
    return environment.get_template(template).render(parameters)
