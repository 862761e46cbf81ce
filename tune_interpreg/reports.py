"""Reports of a store, by whatever package registers one (``tune_interpreg.reports``)."""

from __future__ import annotations

from rich.console import Console

from tune_interpreg import registry
from tune_interpreg.store import Store


def print_all(store: Store, console: Console) -> None:
    """Write and print every registered report; raises ``StoreError`` where the folder is no store."""
    study = store.study()
    for name in registry.names("reports"):
        registry.resolve("reports", name)(store.path, study, console)
