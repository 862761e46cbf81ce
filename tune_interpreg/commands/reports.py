"""Reports of a store, by whatever package registers them: printed ones (``tune_interpreg.reports``) and frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from tune_interpreg import registry
from tune_interpreg.store.storage import refusing
from tune_interpreg.store.store import Store


def print_all(store: Store, console: Console, *, pictures: bool = False) -> None:
    """Write and print every registered report.

    Raises ``StoreError`` where the folder is no store, is damaged, or cannot be read and written.

    pictures: figures and the page are drawn too, which takes seconds.
    """
    with refusing(store.path):
        study = store.study()
        for name in registry.names("reports"):
            registry.resolve("reports", name)(store.path, study, console, pictures=pictures)


def results(store: str | Path) -> Any:
    """The DataFrame of a store (``tune_interpreg.results``), by the one package that registers how it is made."""
    return registry.resolve("frames", "results")(store)
