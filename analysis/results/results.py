"""The results of a study: what all tables, figures and sentences are computed from."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from analysis import paper
from analysis.results import rows
from analysis.results.rows import MissingSeed
from analysis.statistics.intervals import Interval, student_t, wilson
from analysis.statistics.pairs import Comparison
from analysis.tables.cells import Estimate, MetricSource
from tune_interpreg.schedule.current import Current
from tune_interpreg.search.importances import Importances, compute_importances
from tune_interpreg.store.files import StoreError, raise_refused
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study


@dataclass(frozen=True)
class Results:
    """A study, its records, and the values and gaps that follow from them.

    choices: arm → what its search chose (the fields of the choice file), for finished searches.
    damaged: arm → its damaged files, which are left out, one line each.
    """

    study: Study
    records: tuple[Record, ...]
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    damaged: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def from_store(cls, store: Store, study: Study | None = None, records: Sequence[Record] | None = None) -> Results:
        """Read a store, finished or not; study, records: None for the store's own. Writes nothing.

        Raises ``StoreError`` if study is None and the folder is no store or its study.yaml is damaged, or if a part of
        it cannot be read.
        """
        with raise_refused(store.path):
            return cls._from_store(store, study, records)

    @classmethod
    def _from_store(cls, store: Store, study: Study | None, records: Sequence[Record] | None) -> Results:
        study = store.load_study() if study is None else study
        records, unreadable = store.read_ledger() if records is None else (records, [])
        damaged: defaultdict[str, list[str]] = defaultdict(list)
        choices: dict[str, Mapping[str, Any]] = {}
        for error in unreadable:
            damaged[error.path.parent.name].append(str(error))
        for name in study.arms:
            try:
                choices[name] = store.read_choice(name) or {}
            except StoreError as error:
                damaged[name].append(str(error))
        return cls(study, tuple(records), {name: choice for name, choice in choices.items() if choice}, dict(damaged))

    @cached_property
    def current(self) -> Current:
        """The records and choices that belong to the study as it is now."""
        return Current(self.study, self.records, self.choices, keep_last_results=True)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per arm, seed and metric (see ``rows.tabulate``)."""
        return rows.tabulate(self.current)

    @cached_property
    def missing(self) -> list[MissingSeed]:
        """The seeds without a result."""
        return rows.find_missing(self.current)

    @cached_property
    def outdated(self) -> Counter[str]:
        """The number of finished repeats that do not count, per arm."""
        return self.current.outdated

    def importances(self, arm: str, metric: str) -> Importances | None:
        """Return the importances of an arm's searched parameters for a metric of its trials, if there are enough."""
        search = self.study.arms[arm].search
        if search is None:
            return None
        if (arm, metric) not in self._importances:
            trials = self.current.list_trials(arm)
            self._importances[arm, metric] = compute_importances(search, trials, metric)
        return self._importances[arm, metric]

    @cached_property
    def _importances(self) -> dict[tuple[str, str], Importances | None]:
        return {}

    @property
    def seed_count(self) -> int:
        """The number of seeds that the study asks for."""
        return len(self.study.seeds)

    @property
    def standard(self) -> str | None:
        """The arm that the others are compared with: the first of method standard, or None."""
        return next((name for name, arm in self.study.arms.items() if arm.method == "standard"), None)

    def title(self, arm: str) -> str:
        """Return an arm's printed name (see ``paper.title``), with its key if two arms share that name."""
        titles = [paper.title(name, self.study.arms[name]) for name in self.study.arms]
        title = paper.title(arm, self.study.arms[arm])
        return f"{title} ({arm})" if titles.count(title) > 1 else title

    def values(self, arm: str, metric: str) -> dict[int, float]:
        """Return seed → value of one metric of one arm, as recorded; only finite values."""
        by_seed = self._by_seed.get((arm, metric), {})
        return {seed: value for seed, (value, _) in by_seed.items() if math.isfinite(value)}

    def estimate(self, arm: str, metric: str, scale: float = 1.0, decimals: int | None = 2) -> Estimate:
        """Return the mean of a metric over the arm's seeds, times scale.

        The interval is Student's t; of an accuracy of one seed it is Wilson's.
        """
        values = self.values(arm, metric)
        if not values:
            return Estimate(None, self.seed_count, decimals)
        interval = student_t(values.values())
        images = self.images(arm, metric)
        if interval.n == 1 and "accuracy" in metric and images:
            interval = replace(interval, bounds=wilson(interval.mean, images))
        return Estimate(interval.scaled(scale), self.seed_count, decimals, (MetricSource(arm, metric, scale),))

    def cell(self, interval: Interval | None, arms: Iterable[str], *metrics: str, scale: float = 100) -> Estimate:
        """Return a cell of an interval that was computed from these metrics of these arms, in the column's unit."""
        sources = tuple(MetricSource(arm, metric, scale) for arm in arms for metric in metrics)
        return Estimate(interval, self.seed_count, decimals=None, sources=sources)

    def images(self, arm: str, metric: str) -> int:
        """Return the smallest number of images that a value of the metric was measured on; 0 if not recorded."""
        return min((images for _, images in self._by_seed.get((arm, metric), {}).values()), default=0)

    def compare(self, arm: str, other: str, metric: str, scale: float = 1.0) -> Comparison:
        """Return arm − other on a metric, paired by seed; the difference is times scale."""
        return Comparison.from_seeds(self.values(arm, metric), self.values(other, metric), scale)

    @cached_property
    def _by_seed(self) -> dict[tuple[str, str], dict[int, tuple[float, int]]]:
        """(arm, metric) → seed → (value, images)."""
        by_seed: dict[tuple[str, str], dict[int, tuple[float, int]]] = {}
        row: Any
        for row in self.frame.itertuples():
            by_seed.setdefault((row.arm, row.metric), {})[row.seed] = (row.value, row.images)
        return by_seed
