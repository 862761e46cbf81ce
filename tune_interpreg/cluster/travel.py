"""How this installation's code reaches machines that do not have it: modules of packages, and their entry points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from importlib.util import find_spec
from pathlib import Path

from tune_interpreg import registry
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Recipe

#: What of a package's folder stays at home.
EXCLUDED = ("__pycache__", "*.pyc")


def packages(study: Study) -> list[str]:
    """The installed packages whose code a study runs: this one, and the plugins that it names."""
    plugins = {name for arm in study.arms.values() for name in Recipe.of(study, method=arm.method).plugins}
    return [registry.OWN, *sorted(plugins)]


def modules(names: Iterable[str], scratch: Path) -> list[str]:
    """Absolute paths of what makes installed packages importable, and their entry points found, where it is copied to.

    Beside a package's own folders and files this is a ``.dist-info`` folder, written in ``scratch``, for that is where
    Python looks for entry points. What the packages depend on is not among them.
    """
    found = [distribution(name) for name in names]
    return [str(path) for one in found for path in (*_sources(one), _metadata(one, scratch))]


def _sources(package: Distribution) -> Iterator[Path]:
    """The folders and single files of a package's top-level modules, installed or editable."""
    for name in _top_level(package):
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield Path(next(iter(spec.submodule_search_locations))).absolute()
        elif spec is not None and spec.origin and spec.origin.endswith(".py"):
            yield Path(spec.origin).absolute()


def _top_level(package: Distribution) -> list[str]:
    """The names that it lists, where it does, and those that its entry points lie in."""
    listed = (package.read_text("top_level.txt") or "").split()
    named = [point for point in package.entry_points if point.group.startswith("tune_interpreg.")]
    return sorted({*listed, *(point.module.partition(".")[0] for point in named)})


def _metadata(package: Distribution, scratch: Path) -> Path:
    """As much of an installation's record as names, versions and entry points are read from."""
    folder = scratch / f"{package.name.replace('-', '_')}-{package.version}.dist-info"
    folder.mkdir(parents=True)
    header = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n"
    (folder / "METADATA").write_text(header, encoding="utf-8")
    (folder / "entry_points.txt").write_text(package.read_text("entry_points.txt") or "", encoding="utf-8")
    return folder
