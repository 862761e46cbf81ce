"""Names in a study file → Python objects, through entry points: any installed package can add its own.

Groups: ``tune_interpreg.methods`` (Trainable classes), ``.stages``, ``.models``, ``.datasets``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any


class UnknownName(LookupError):
    """A name that no installed package registers in its group."""


class BrokenPlugin(ImportError):
    """A registered name that cannot be used: the import fails, or several packages register it."""


#: A key needs no version of this package: ``recipe.FORMAT`` stands for it.
OWN_PACKAGE = "tune-interpreg"


@cache
def _entry_points(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"tune_interpreg.{group}")}


@cache
def _packages(group: str, name: str) -> list[str]:
    """Return the packages that register ``name``."""
    points = entry_points(group=f"tune_interpreg.{group}", name=name)
    return sorted({point.dist.name for point in points if point.dist})


def names(group: str) -> list[str]:
    """Return all names registered in ``group``, sorted."""
    return sorted(_entry_points(group))


@cache
def resolve(group: str, name: str) -> Any:
    """Import and return the object that ``name`` stands for in ``group``.

    Raises:
        UnknownName: no package registers the name; the message lists the registered names.
        BrokenPlugin: the import fails, or several packages register the name; the message names the packages.
    """
    try:
        point = _entry_points(group)[name]
    except KeyError:
        raise UnknownName(f"unknown name {name!r} in {group}; there are: {', '.join(names(group))}") from None
    packages = _packages(group, name)
    if len(packages) > 1:
        raise BrokenPlugin(
            f"{name} is registered by {' and by '.join(packages)}; uninstall all but one of these packages"
        )
    try:
        return point.load()
    except Exception as error:  # the import runs another package's code, which may raise anything
        source = f"{point.value}, of {point.dist.name if point.dist else 'an unknown package'}"
        raise BrokenPlugin(f"{name} ({source}) cannot be imported: {error}; repair or uninstall it") from error


def plugin_versions(registered: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return package → version for those of the (group, name) pairs that packages other than this one register."""
    points = (_entry_points(group).get(name) for group, name in registered)
    packages = {_name_and_version(point.dist) for point in points if point and point.dist}
    return {name: version for name, version in sorted(packages) if name != OWN_PACKAGE}


@cache
def _name_and_version(package: Distribution) -> tuple[str, str]:
    """Return a package's name and version. Cached, because every recipe needs them and reading parses a whole file."""
    return package.name, package.version


@cache
def load_method(name: str) -> Any:
    """Import and return the Trainable class of a method, or of several methods joined by ``+``.

    Raises:
        UnknownName, BrokenPlugin: see ``resolve``.
        ValueError: the methods cannot be combined.
    """
    methods = [_load_trainable(part.strip()) for part in name.split("+")]
    return methods[0] if len(methods) == 1 else resolve("stages", "combination")(*methods)


def _load_trainable(name: str) -> Any:
    trainable = resolve("methods", name)
    if not (hasattr(trainable, "terms") and hasattr(trainable, "parameters")):
        rule = "derive a class from trainables.MethodTrainable"
        raise BrokenPlugin(f"{name} is not a training method but {trainable!r}; {rule}")
    return trainable
