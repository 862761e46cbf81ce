"""Find this project's top-level packages, also if the user has modules of these names, such as an ``analysis.py``."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

NAMES = ("analysis", "trainables", "search_spaces")
_HOME = Path(__file__).parents[1]

#: Modules of this project that a block of ``visible`` has imported and hidden again.
_hidden: dict[str, ModuleType] = {}


class _Finder:
    """Find the packages of this installation, whatever stands before them on ``sys.path``."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(_HOME)]) if name in NAMES else None


def pin() -> None:
    """Give the names to this project's packages, in this process and for good: it belongs to the project."""
    _take_foreign()
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


@contextmanager
def visible() -> Iterator[None]:
    """Give the names to this project's packages in this block, and then back to the user's modules, if there are any.

    A process of the user, such as a notebook, may import both.
    """
    if all(_is_ours(name) for name in NAMES):
        yield
        return
    foreign = _take_foreign()
    sys.modules.update(_hidden)
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)
        shadowed = {name for name in NAMES if name in foreign or not _is_found_as_ours(name)}
        _hidden.update(_take_modules(shadowed))
        sys.modules.update(foreign)


def _take_foreign() -> dict[str, ModuleType]:
    """Remove and return the user's modules with these names."""
    return _take_modules({name for name in NAMES if name in sys.modules and not _is_ours(name)})


def _take_modules(names: set[str]) -> dict[str, ModuleType]:
    loaded = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in loaded}


def _is_ours(name: str) -> bool:
    """Return whether the name belongs to this project: its module if it is imported, else what would be imported."""
    module = sys.modules.get(name)
    if module is None:
        return _is_found_as_ours(name)
    return _is_home(name, getattr(module, "__file__", None))


def _is_found_as_ours(name: str) -> bool:
    module = sys.modules.pop(name, None)  # ``find_spec`` would return that of the imported one
    try:
        spec = find_spec(name)
    finally:
        if module is not None:
            sys.modules[name] = module
    return _is_home(name, spec.origin if spec else None)


def _is_home(name: str, file: str | None) -> bool:
    """Return whether a module's file is this installation's. Where Ray brought the code, packages lie apart."""
    source = _HOME / name / "__init__.py"
    return not source.exists() or (file is not None and Path(file).exists() and source.samefile(file))
