"""Send this installation's code to machines that lack it: the modules of packages, and their entry points."""

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from importlib.util import find_spec
from pathlib import Path

from tune_interpreg.study.config import Study
from tune_interpreg.study.recipe import Recipe

#: Patterns of files that are not sent.
EXCLUDED = ("__pycache__", "*.pyc")


def study_packages(study: Study) -> list[str]:
    """Return the names of the installed packages that a study needs: this one, and its plugins."""
    plugins = {name for arm in study.arms.values() for name in Recipe.from_study(study, method=arm.method).plugins}
    return ["tune-interpreg", *sorted(plugins)]


def collect_modules(packages: Iterable[str], scratch: Path) -> list[str]:
    """Return the absolute paths to send (Ray's ``py_modules``), so that installed packages can be imported elsewhere.

    These are a package's own files, without dependencies, and a ``.dist-info`` folder in ``scratch`` for entry points.
    """
    installed = [distribution(name) for name in packages]
    paths = [path for package in installed for path in [*_sources(package), _write_metadata(package, scratch)]]
    return [str(path) for path in paths]


def _sources(package: Distribution) -> Iterator[Path]:
    """Yield the folders and files of the modules that a package lists, if it does, and that its entry points name."""
    listed = (package.read_text("top_level.txt") or "").split()
    points = [point for point in package.entry_points if point.group.startswith("tune_interpreg.")]
    for name in sorted({*listed, *(point.module.partition(".")[0] for point in points)}):
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield Path(next(iter(spec.submodule_search_locations))).absolute()
        elif spec is not None and spec.origin and spec.origin.endswith(".py"):
            yield Path(spec.origin).absolute()


def _write_metadata(package: Distribution, scratch: Path) -> Path:
    """Write the part of a package's metadata from which Python reads name, version and entry points."""
    folder = scratch / f"{package.name.replace('-', '_')}-{package.version}.dist-info"
    folder.mkdir(parents=True)
    header = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n"
    (folder / "METADATA").write_text(header, encoding="utf-8")
    (folder / "entry_points.txt").write_text(package.read_text("entry_points.txt") or "", encoding="utf-8")
    return folder
