"""What every table is computed from: a study's rows, what is missing of them, and arms compared seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from analysis import paper
from analysis.results import rows
from analysis.results.current import Current, Record
from analysis.results.rows import MissingSeed
from analysis.statistics.intervals import student_t, wilson
from analysis.statistics.pairs import Comparison
from analysis.tables.cells import Estimate, Source
from tune_interpreg.store.store import Store, StoreError
from tune_interpreg.study.config import Study


@dataclass(frozen=True)
class Results:
    """What every table is computed from: a study, its ledger, and the rows and gaps that follow from both.

    choices: by arm, what its search chose (the fields of the store's choice file), where it has ended.
    damaged: by arm, which of its files are damaged and left out, one line each.
    current: what of the records and choices belongs to the study as it stands.
    """

    study: Study
    records: tuple[Record, ...]
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    damaged: Mapping[str, Sequence[str]] = field(default_factory=dict)
    current: Current = field(init=False)
    frame: pd.DataFrame = field(init=False)
    missing: tuple[MissingSeed, ...] = field(init=False)

    def __post_init__(self) -> None:
        current = Current(self.study, self.records, self.choices)
        object.__setattr__(self, "current", current)
        object.__setattr__(self, "frame", rows.tabulate(current))
        object.__setattr__(self, "missing", tuple(rows.find_missing(current)))

    @classmethod
    def from_store(cls, store: Store, study: Study | None = None) -> Results:
        """What a store holds, finished or not, of a study (None: the store's own); nothing is written.

        Raises ``StoreError`` where study is None and the folder is no store, or its study.yaml is damaged.
        """
        study = store.study() if study is None else study
        records, unread = store.ledger()
        damaged: dict[str, list[str]] = {}
        choices: dict[str, dict[str, Any]] = {}
        for error in unread:
            damaged.setdefault(error.path.parent.name, []).append(str(error))
        for name in study.arms:
            try:
                choices |= {name: choice} if (choice := store.choice(name)) else {}
            except StoreError as unreadable:
                damaged.setdefault(name, []).append(str(unreadable))
        return cls(study, tuple(records), choices, damaged)

    @property
    def asked(self) -> int:
        """How many seeds each mean should rest on."""
        return len(self.study.seeds)

    @property
    def standard(self) -> str | None:
        """The arm that the others are measured against: the first one of method standard; None where none is."""
        return next((name for name, arm in self.study.arms.items() if arm.method == "standard"), None)

    def title(self, arm: str) -> str:
        """How an arm is called in print (see ``paper.title``), followed by its name where two would be called alike."""
        titles = {name: paper.title(name, one) for name, one in self.study.arms.items()}
        alike = list(titles.values()).count(titles[arm]) > 1
        return f"{titles[arm]} ({arm})" if alike else titles[arm]

    def values(self, arm: str, metric: str) -> Mapping[int, float]:
        """seed → value of one metric of one arm, as the ledger has it; only finite values."""
        return self._values.get((arm, metric), {})

    def estimate(self, arm: str, metric: str, scale: float = 1.0, decimals: int | None = 2) -> Estimate:
        """Mean of a metric over the arm's seeds, times scale; Wilson's interval for the accuracy of a single seed."""
        found = self.values(arm, metric)
        if not found:
            return Estimate(None, self.asked, decimals)
        interval = student_t(found.values())
        images = self.images(arm, metric)
        if interval.n == 1 and "accuracy" in metric and images:
            interval = replace(interval, bounds=wilson(interval.mean, images))
        return Estimate(interval.scaled(scale), self.asked, decimals, (Source(arm, metric, scale),))

    def images(self, arm: str, metric: str) -> int:
        """The fewest images that a value of the metric rests on; 0 where the ledger does not say."""
        return min(self._images.get((arm, metric), {0: 0}).values())

    def compare(self, arm: str, other: str, metric: str) -> Comparison:
        """One arm against another, paired by seed."""
        return Comparison.from_seeds(self.values(arm, metric), self.values(other, metric))

    @cached_property
    def _values(self) -> dict[tuple[str, str], dict[int, float]]:
        return _by_seed(self.frame.dropna(subset=["value"]), "value")

    @cached_property
    def _images(self) -> dict[tuple[str, str], dict[int, int]]:
        return _by_seed(self.frame, "images")


def _by_seed(frame: pd.DataFrame, column: str) -> dict[tuple[str, str], dict[int, Any]]:
    held: dict[tuple[str, str], dict[int, Any]] = {}
    for arm, metric, seed, value in zip(*(frame[name] for name in ("arm", "metric", "seed", column)), strict=True):
        held.setdefault((arm, metric), {})[int(seed)] = value
    return held
