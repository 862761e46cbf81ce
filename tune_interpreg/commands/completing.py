"""What the shell offers for an argument that is begun; where it is nothing, the shell offers files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from tune_interpreg import registry
from tune_interpreg.study.file import read as study_file


def studies(incomplete: str) -> list[str]:
    """Shipped studies and YAML files, here or in the folder that is begun."""
    found = [path for suffix in ("yaml", "yml") for path in glob.glob(f"{glob.escape(incomplete)}*.{suffix}")]
    return [*_begun(study_file.shipped(), incomplete), *sorted(found)]


def stores(incomplete: str) -> list[str]:
    """Folders that hold a study of a run, and those in the folders that are begun, such as ``runs``."""
    begun = f"{glob.escape(incomplete)}*"
    return sorted(os.path.dirname(path) for depth in ("", "*/") for path in glob.glob(f"{begun}/{depth}study.yaml"))


def datasets(incomplete: str) -> list[str]:
    """Registered data sets."""
    return _begun(registry.names("datasets"), incomplete)


def _begun(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
