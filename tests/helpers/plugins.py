"""Install a plugin of a single module for a test's processes: put the folder on their PYTHONPATH."""

from pathlib import Path


def install_plugin(site: Path, module: str, source: str, entry_points: str) -> Path:
    """Write the module, and the metadata in which Python finds its entry points, to ``site``; returns ``site``."""
    metadata = site / f"{module}-1.2.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{module}.py").write_text(source)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    return site
