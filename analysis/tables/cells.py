"""A table before ink: what its cells hold, and how a measured one is rounded.

Everything measured is rounded at its half-width's second digit, the mean at the same place, and so is everything
derived from it. The numbers of Tables 1, 2 and 3 alone keep the two decimals that the paper prints, so that a reader
can lay them side by side; they get more where two would print an interval as ± 0.00 that is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from analysis.statistics.intervals import Interval

ABSENT = "–"

#: Below this a p-value is printed as such, and no number's digits go further.
LEAST_P = 1e-4


@dataclass(frozen=True)
class Source:
    """Where a measured cell comes from: one metric of one arm's repeats, times scale in the column's unit."""

    arm: str
    metric: str
    scale: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """A cell that is measured: its interval, in the column's unit, or None where no seed has a value.

    asked: seeds it should rest on; fewer are told as (n=…). decimals: how many are printed, more where they would show
    a half-width of 0.00 that is not 0; None rounds at the half-width's second digit. sources: what it was computed
    from; of a difference, both sides.
    """

    interval: Interval | None
    asked: int
    decimals: int | None = 2
    sources: tuple[Source, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        if self.interval is None:
            return ABSENT
        lacking = self.interval.n < self.asked or self.interval.n == 1
        return self.text + (f" (n={self.interval.n})" if lacking else "")

    @property
    def text(self) -> str:
        """The number and its interval, however few seeds it rests on: 99.20 ± 0.20, or 3.1 [1.2, 5.3], or 99.20."""
        return ABSENT if self.interval is None else _printed(self.interval, self.decimals)


@dataclass(frozen=True)
class Probability:
    """A cell with a p-value, in [0, 1]; None where nothing was tested."""

    p: float | None

    def __str__(self) -> str:
        if self.p is None:
            return ABSENT
        return f"< {LEAST_P:.4f}" if self.p < LEAST_P else f"{self.p:.{max(2, _decimals(self.p))}f}"


Cell = str | Estimate | Probability


@dataclass(frozen=True)
class Table:
    """A table before ink: one cell a column in each row; notes say n, method, settings and what is missing.

    The first cell of a row is its name, text, and no other row's. long: too long for a terminal; files have it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    long: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (self.title, row)


def _printed(interval: Interval, decimals: int | None) -> str:
    half_width = (interval.bounds[1] - interval.bounds[0]) / 2 if interval.bounds else interval.half_width
    places = _places(half_width, decimals)
    number = _number(interval.mean, places)
    if interval.bounds:
        return f"{number} [{', '.join(_number(end, places) for end in interval.bounds)}]"
    return number if half_width is None else f"{number} ± {half_width:.{places}f}"


def _number(value: float, places: int) -> str:
    return f"{value:z.{places}f}".replace("-", "−")


def _places(half_width: float | None, decimals: int | None) -> int:
    if decimals is None:
        return _decimals(half_width)
    vanishes = half_width and round(half_width, decimals) == 0
    return _decimals(half_width) if vanishes else decimals


def _decimals(half_width: float | None) -> int:
    """Decimals that show a half-width's first two digits: 0.0123 → 3; four where there is none, two where it is 0."""
    if not half_width:
        return 4 if half_width is None else 2
    return max(0, 1 - math.floor(math.log10(float(f"{half_width:.1e}"))))
