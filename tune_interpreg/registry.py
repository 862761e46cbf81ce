"""Names in a study file → Python objects, through entry points: any installed package can add its own.

Groups: ``tune_interpreg.methods`` (Trainable classes), ``.stages``, ``.models``, ``.datasets``,
``.trackers``.
"""

import difflib
import hashlib
import importlib.util
import traceback
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any


class UnknownName(LookupError):
    """A name that no installed package registers in its group."""


class BrokenPlugin(ImportError):
    """A registered name that cannot be used: the import fails, or several packages register it."""


@cache
def _entry_points(group: str) -> Mapping[str, list[EntryPoint]]:
    """Return name → entry points. A usable name has one."""
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"tune_interpreg.{group}"):
        points.setdefault(point.name, []).append(point)
    return points


def names(group: str) -> list[str]:
    """Return all names registered in ``group``, sorted."""
    return sorted(_entry_points(group))


def suggest(name: str, candidates: Collection[str]) -> str:
    """Return a remedy for an unknown name: the candidate that is close to it, or all candidates.

    A candidate that the name begins with is preferred to a vague resemblance: ``eps`` for ``epsilon``.
    """
    close = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.8)
    starts = [candidate for candidate in candidates if len(candidate) > 2 and name.lower().startswith(candidate)]
    close += sorted(starts, key=len, reverse=True)
    close += difflib.get_close_matches(name.lower(), candidates, n=1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(candidates))}"


@cache
def resolve(group: str, name: str) -> Any:
    """Import and return the object that ``name`` stands for in ``group``.

    Raises:
        UnknownName: no package registers the name; the message suggests registered names.
        BrokenPlugin: the import fails, or several packages register the name; the message names the packages.
    """
    if name not in _entry_points(group):
        raise UnknownName(f'unknown {group[:-1]} "{name}"; {suggest(name, names(group))}')
    point, *others = _entry_points(group)[name]
    packages = sorted(each.dist.name for each in (point, *others) if each.dist)
    if others:
        remedy = "uninstall all but one of these packages"
        raise BrokenPlugin(f"{name} is registered by {' and by '.join(packages)}; {remedy}")
    try:
        return point.load()
    except Exception as error:  # the import runs another package's code, which may raise anything
        source = f"{point.value}, of {packages[0] if packages else 'an unknown package'}"
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        raise BrokenPlugin(f"{name} ({source}) cannot be imported: {reason}; repair or uninstall it") from error


@cache
def plugin_versions(*registered: tuple[str, str]) -> Mapping[str, str]:
    """Return package → version for those of the (group, name) pairs that packages other than this one register.

    A key needs no version of this package, because ``recipe.FORMAT`` stands for it.
    """
    points = [point for group, name in registered for point in _entry_points(group).get(name, ())]
    packages = {(point.dist.name, point.dist.version) for point in points if point.dist}
    return {name: version for name, version in sorted(packages) if name != "tune-interpreg"}


def plugin_code(*registered: tuple[str, str]) -> dict[str, str]:
    """Return module → ``module_checksum``, for those of the (group, name) pairs that other packages register."""
    points = [point for group, name in registered for point in _entry_points(group).get(name, ())]
    modules = {point.module for point in points if point.dist and point.dist.name != "tune-interpreg"}
    return {module: checksum for module in sorted(modules) if (checksum := module_checksum(module))}


@cache
def module_checksum(module: str) -> str | None:
    """Return a checksum of the module's file. None: there is no such file."""
    with suppress(ImportError, OSError):
        spec = importlib.util.find_spec(module)
        if spec and spec.origin:
            return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
    return None


def plugin_modules(*registered: tuple[str, str]) -> list[str]:
    """Return the modules that define the (group, name) pairs."""
    return [point.module for group, name in registered for point in _entry_points(group).get(name, ())]


@cache
def load_method(name: str) -> Any:
    """Import and return the Trainable class of a method, or of several methods joined by ``+``.

    Raises:
        UnknownName, BrokenPlugin: see ``resolve``.
        ValueError: the methods cannot be combined.
    """
    parts = [part.strip() for part in name.split("+")]
    methods = [resolve("methods", part) for part in parts]
    for part, method in zip(parts, methods, strict=True):
        if not (hasattr(method, "terms") and hasattr(method, "parameters")):
            raise BrokenPlugin(f"{part} is not a training method; derive a class from trainables.MethodTrainable")
    return methods[0] if len(methods) == 1 else resolve("stages", "combination")(*methods)
