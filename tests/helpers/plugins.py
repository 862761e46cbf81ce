"""Install plugins of a single module in a folder, for other processes (PYTHONPATH) or for this one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tune_interpreg import registry


def install_plugin(site: Path, module: str, source: str, entry_points: str) -> Path:
    """Write the module, and the metadata in which Python finds its entry points, to ``site``; returns ``site``."""
    metadata = site / f"{module}-1.2.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{module}.py").write_text(source)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    return site


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """In this block, import from ``folder`` and register its packages' names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        _clear_caches()
        yield
    _clear_caches()


def _clear_caches() -> None:
    caches = (registry._entry_points, registry.resolve, registry.plugin_versions, registry.module_checksum)
    for cached in (*caches, registry.load_method):
        cached.cache_clear()
