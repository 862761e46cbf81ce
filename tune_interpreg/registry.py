"""Names in a study file → Python objects, through entry points, so that any installed package can add its own.

Groups: ``tune_interpreg.methods`` (Trainable classes), ``.stages``, ``.models``, ``.datasets``, ``.reports``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class UnknownName(LookupError):
    """A name that no installed package registers in its group."""


@cache
def _group(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"tune_interpreg.{group}")}


def names(group: str) -> list[str]:
    """All names registered in ``group``, sorted."""
    return sorted(_group(group))


@cache
def resolve(group: str, name: str) -> Any:
    """Import and return what ``name`` stands for in ``group``; raises ``UnknownName`` with the names there are."""
    try:
        point = _group(group)[name]
    except KeyError:
        raise UnknownName(f"unknown name {name!r} in {group}; there are: {', '.join(names(group))}") from None
    return point.load()
