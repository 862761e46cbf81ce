"""Plugins with code that changed after their trainings, and a version that did not."""

from collections import Counter
from collections.abc import Iterable

from tune_interpreg import registry
from tune_interpreg.store.store import Record


def list_changed_code(records: Iterable[Record]) -> list[str]:
    """Return a line for each module of a plugin with another file than trainings of these records used."""
    used = (item for record in records for item in record.get("code", {}).items())
    changed = Counter(module for module, checksum in used if registry.module_checksum(module) not in (checksum, None))
    remedy = "if that changes numbers, raise its package's version and install again: they are trained again"
    return [
        f"warning: {module} has changed after {count} of the trainings; {remedy}" for module, count in changed.items()
    ]
