"""Hyperparameter search for networks trained to be robust and interpretable."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__version__ = "0.1.0"


def results(store: str | Path) -> pd.DataFrame:
    """The results of a study as a pandas DataFrame: one row an arm × seed × metric.

    Columns: arm, title, method, seed, state, metric, value, images, key, recipe_key, device, seconds, finished.
    Accuracies are fractions in [0, 1]. A seed without a result has one row; its state says why, its value is NaN.

    store: a study's store, such as runs/digits, while it runs or when it is done; nothing is written.
    Raises ``store.StoreError`` where the folder is no store.
    """
    frame: pd.DataFrame = import_module("tune_interpreg.commands.reports").results(store)
    return frame
