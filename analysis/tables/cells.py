"""Tables before rendering: their cells, and how measured numbers are rounded.

Numbers are rounded to the second digit of the half-width. Only Tables 1 to 3 keep the two decimals of the paper, for
comparison line by line; they get more decimals if two would print a half-width as ± 0.00 that is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from analysis.statistics.intervals import Interval
from tune_interpreg.study.config import Study

ABSENT = "–"

#: The smallest p-value that is printed as a number.
LEAST_P = 1e-4


@dataclass(frozen=True)
class MetricSource:
    """The origin of a measured cell: one metric of one arm's repeats, times scale in the column's unit."""

    arm: str
    metric: str
    scale: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """A measured cell: an interval in the column's unit, or None if no seed has a value.

    asked: the number of seeds it should have; with fewer, (n=…) is printed. decimals: None to round at the half-width's
    second digit. sources: the metrics it is computed from; for a difference, of both arms.
    """

    interval: Interval | None
    asked: int
    decimals: int | None = 2
    sources: tuple[MetricSource, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        if self.interval is None:
            return ABSENT
        incomplete = self.interval.n < self.asked or self.interval.n == 1
        return self.text + (f" (n={self.interval.n})" if incomplete else "")

    @property
    def text(self) -> str:
        """The number and its interval without n: 99.20 ± 0.20, or 3.1 [1.2, 5.3], or 99.20."""
        if self.interval is None:
            return ABSENT
        bounds, half_width = self.interval.bounds, self.interval.half_width
        places = _places((bounds[1] - bounds[0]) / 2 if bounds else half_width, self.decimals)
        number = _fixed(self.interval.mean, places)
        if bounds:
            return f"{number} [{_fixed(bounds[0], places)}, {_fixed(bounds[1], places)}]"
        return number if half_width is None else f"{number} ± {half_width:.{places}f}"


@dataclass(frozen=True)
class Probability:
    """A cell with a p-value in [0, 1], or None without a test."""

    p: float | None

    def __str__(self) -> str:
        if self.p is None:
            return ABSENT
        return f"< {LEAST_P:.4f}" if self.p < LEAST_P else f"{self.p:.{max(2, _digits(self.p))}f}"


Cell = str | Estimate | Probability


#: The part of the page that a table is in.
Section = Literal["results", "answer", "interpretability", "gradients", "comparisons", "honesty", "settings"]


@dataclass(frozen=True)
class Table:
    """A table before rendering: one cell per column in each row.

    The first cell of a row is its name: text, unique in the table. notes: n, method, settings and what is missing.
    section: its place on the page. long: too long for a terminal, in the files only.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    section: Section = "results"
    long: bool = False

    @classmethod
    def from_rows(
        cls,
        title: str,
        rows: Sequence[Mapping[str, Cell]],
        notes: Iterable[str],
        section: Section,
        *,
        long: bool = False,
    ) -> Table:
        """Return a table of rows, each heading → cell, all with the same headings."""
        columns = tuple(rows[0]) if rows else ()
        return cls(title, columns, tuple(tuple(row.values()) for row in rows), tuple(notes), section, long)

    def select(self, title: str, headings: Mapping[str, str]) -> Table:
        """Return those columns that ``headings`` renames (column → new heading), without notes."""
        places = [place for place, column in enumerate(self.columns) if column in headings]
        rows = tuple(tuple(row[place] for place in places) for row in self.rows)
        return Table(title, tuple(headings[self.columns[place]] for place in places), rows)


@dataclass(frozen=True)
class Report:
    """The tables and sentences of a study, and the files they were written to, without figures.

    status: how many repeats are done, then what went wrong. tables: those with rows, in the order of the files.
    answer: the answer to the paper's question, one sentence each.
    """

    study: Study
    status: tuple[str, ...]
    tables: tuple[Table, ...]
    answer: tuple[str, ...]
    paths: tuple[Path, ...] = ()


def _fixed(value: float, places: int) -> str:
    return f"{value:z.{places}f}".replace("-", "−")


def _places(half_width: float | None, decimals: int | None) -> int:
    if decimals is None:
        return _digits(half_width)
    vanishes = half_width and round(half_width, decimals) == 0
    return _digits(half_width) if vanishes else decimals


def _digits(half_width: float | None) -> int:
    """Return the decimals that show two digits of a half-width: 0.0123 → 3. Without one four, of 0 two."""
    if not half_width:
        return 4 if half_width is None else 2
    return max(0, 1 - math.floor(math.log10(float(f"{half_width:.1e}"))))
