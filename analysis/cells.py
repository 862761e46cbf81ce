"""A table before ink: what its cells hold, and how a measured one is rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.intervals import Interval

ABSENT = "–"


@dataclass(frozen=True)
class Estimate:
    """A cell that is measured: its interval, in the column's unit, or None where no seed has a value.

    asked: seeds it should rest on. decimals: how many are printed; None rounds at the half-width's second digit.
    """

    interval: Interval | None
    asked: int
    decimals: int | None = 2

    def __str__(self) -> str:
        if self.interval is None:
            return ABSENT
        mean, half_width, n = self.interval.mean, self.interval.half_width, self.interval.n
        decimals = _decimals(half_width) if self.decimals is None else self.decimals
        number = f"{mean:z.{decimals}f}" + ("" if half_width is None else f" ± {half_width:.{decimals}f}")
        return number if n >= self.asked and half_width is not None else f"{number} (n={n})"


Cell = str | Estimate


@dataclass(frozen=True)
class Table:
    """A table before ink: one cell a column in each row; notes say n, method, settings and what is missing."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (self.title, row)


def _decimals(half_width: float | None) -> int:
    """Decimals that show a half-width's first two digits: 0.0123 → 3; four where there is none."""
    if not half_width:
        return 4
    return max(0, 1 - math.floor(math.log10(half_width)))
