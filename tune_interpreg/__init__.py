"""Hyperparameter search for networks trained to be robust and interpretable."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from tune_interpreg.notebook import compare, export, figure, plan, read_status, read_study, report, run, write_study
    from tune_interpreg.study.config import Study

__all__ = [
    "Study",
    "compare",
    "export",
    "figure",
    "plan",
    "read_status",
    "read_study",
    "report",
    "results",
    "run",
    "write_study",
]

__version__ = "0.2.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())


def results(store: str | Path) -> pd.DataFrame:
    """Return the results of a study as a pandas DataFrame with one row per arm, seed and metric.

    Columns: arm, title, method, seed, state, metric, value, images, key, recipe_key, device, seconds, finished.
    Accuracies are fractions in [0, 1]. A seed without a result has one row: its value is NaN, and its state says why.

    store: a study's store, such as runs/digits, during a run or after it. Raises ``StoreError`` if it is none.
    """
    from tune_interpreg import packages

    with packages.visible():
        from analysis.results.frame import results

        return results(store)


def __getattr__(name: str) -> Any:
    """Load the functions of ``notebook`` when they are used: importing this package loads no library."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tune_interpreg import notebook

    return getattr(notebook, name)
