"""Names in a study file → Python objects, through entry points, so that any installed package can add its own.

Groups: ``tune_interpreg.methods`` (Trainable classes), ``.stages``, ``.models``, ``.datasets``, ``.reports``,
``.frames``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any


class UnknownName(LookupError):
    """A name that no installed package registers in its group."""


class BrokenPlugin(ImportError):
    """A registered name that cannot be used: its package cannot be imported, or is not the only one."""


#: The package whose names need no version in a key: its own changes raise ``recipe.FORMAT``.
OWN_PACKAGE = "tune-interpreg"


@cache
def _group(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"tune_interpreg.{group}")}


@cache
def _rivals(group: str, name: str) -> list[str]:
    """The packages that register ``name``."""
    points = entry_points(group=f"tune_interpreg.{group}", name=name)
    return sorted({point.dist.name for point in points if point.dist})


def names(group: str) -> list[str]:
    """All names registered in ``group``, sorted."""
    return sorted(_group(group))


@cache
def resolve(group: str, name: str) -> Any:
    """Import and return what ``name`` stands for in ``group``.

    Raises ``UnknownName`` with the names there are, or ``BrokenPlugin`` with the package at fault.
    """
    try:
        point = _group(group)[name]
    except KeyError:
        raise UnknownName(f"unknown name {name!r} in {group}; there are: {', '.join(names(group))}") from None
    if len(rivals := _rivals(group, name)) > 1:
        raise BrokenPlugin(f"{name} is registered by {' and by '.join(rivals)}; remove all but one of these packages")
    try:
        return point.load()
    except Exception as error:  # whatever a package of others raises while it is imported
        package = point.dist.name if point.dist else "an unknown package"
        raise BrokenPlugin(
            f"{name} ({point.value}, of {package}) cannot be imported: {error}; mend or remove it"
        ) from error


def plugin_versions(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Package → version of those (group, name) that other packages than this one register."""
    points = (_group(group).get(name) for group, name in named)
    packages = {_name_and_version(point.dist) for point in points if point and point.dist}
    return {name: version for name, version in sorted(packages) if name != OWN_PACKAGE}


@cache
def _name_and_version(package: Distribution) -> tuple[str, str]:
    """Kept, because every trial asks for them and a package parses its whole metadata for each."""
    return package.name, package.version


@cache
def load_method(name: str) -> Any:
    """The Trainable class of a method, or of several joined by ``+``, of which the first combines the others with it.

    Raises ``UnknownName``, ``BrokenPlugin``, and ``ValueError`` where methods cannot be combined.
    """
    first, *others = (_trainable(part.strip()) for part in name.split("+"))
    return first.combined(*others) if others else first


def _trainable(name: str) -> Any:
    found = resolve("methods", name)
    if not (hasattr(found, "terms") and hasattr(found, "parameters")):
        raise BrokenPlugin(
            f"{name} is no training method but {found!r}; derive a class from trainables.MethodTrainable"
        )
    return found
