"""What all figures share: sizes, colours, labels beside what they name, and how a figure is saved."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.optimize import isotonic_regression

from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study

Array = np.ndarray
Ink = dict[str, Any]  # keywords of matplotlib

INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d1d9e0"

#: Okabe and Ito's colours, told apart by colour-blind readers; black leads as ink, yellow is too pale for lines.
COLOURS = (INK, "#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#009e73", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

WIDTH, DPI, FONT = 7.2, 150, 8.5  # inches, pixels an inch, points

#: More points than this are drawn as pixels within the vector file.
MANY = 1_000

STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titlesize": FONT + 0.5,
    "axes.titleweight": "bold",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT,
    "grid.color": FAINT,
    "grid.alpha": 0.55,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "tune-interpreg",
    "text.color": INK,
    "text.parse_math": False,  # an arm's title may hold dollars
    "xtick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.color": FAINT,
    "ytick.labelcolor": MUTED,
}


class NothingToDraw(ValueError):
    """The ledger lacks what a figure shows; the message says what."""


@dataclass(frozen=True)
class Drawn:
    """A figure on disk.

    caption: what is shown, n and method; of a figure left out, why. paths: PNG and SVG, or none.
    """

    name: str
    title: str
    caption: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Look:
    """How an arm is drawn in every figure."""

    colour: str
    marker: str


def looks(study: Study) -> dict[str, Look]:
    """Each arm's colour, in the study's order; where colours repeat, the marker is another."""
    turns = {arm: divmod(place, len(COLOURS)) for place, arm in enumerate(study.arms)}
    return {arm: Look(COLOURS[colour], MARKERS[turn % len(MARKERS)]) for arm, (turn, colour) in turns.items()}


def titles(results: Results, longest: int = 32) -> dict[str, str]:
    """What each arm is called in a figure: its title on one line, cut to so many characters."""
    whole = {arm: " ".join(results.title(arm).split()) for arm in results.study.arms}
    return {arm: name if len(name) <= longest else f"{name[: longest - 1]}…" for arm, name in whole.items()}


def counted(found: Mapping[str, int], results: Results) -> str:
    """Over how many seeds the arms are drawn: n = 5 seeds; fewer than asked, or of some arms fewer, are told.

    found: arm → n; several of an arm's means may rest on different seeds, then the least.
    """
    most, names = max(found.values()), titles(results)
    fewer = [f"{names[arm]} {n}" for arm, n in found.items() if n < most]
    asked = f" of {results.asked}" if most < results.asked else ""
    return f"n = {most}{asked} seeds" + (f" (but {', '.join(fewer)})" if fewer else "")


def panels(count: int, *, height: float, columns: int = 2, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` axes side by side, up to ``columns`` in a row; height: inches of one row."""
    columns = min(count, columns)
    rows = -(-count // columns)
    margins = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.04)
    figure = Figure(figsize=(WIDTH, rows * height), layout=margins)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def room(names: int, least: float) -> float:
    """Inches of height at which so many names stand below each other, ``least`` or more."""
    return max(least, 0.85 + 0.19 * names)


def spread(places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """The places moved as little as keeps them ``gap`` apart and, where they fit, within [low, high].

    Least squares under z_{i+1} − z_i ≥ gap for the sorted places: isotonic regression of z_i − i·gap.
    """
    if not len(places):
        return []
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    free = isotonic_regression(np.asarray(places, dtype=float)[order] - steps).x
    placed = np.empty(len(places))
    placed[order] = np.clip(free, low, max(low, high - steps[-1])) + steps
    return placed.tolist()


def reach(interval: Interval) -> Array | None:
    """How far an interval reaches below and above its mean, 2×1; None where there is no interval."""
    if interval.low is None or interval.high is None:
        return None
    return np.asarray([[interval.mean - interval.low], [interval.high - interval.mean]])


def label(axes: Axes, ends: Sequence[tuple[float, float]], texts: Sequence[str], colours: Sequence[str]) -> Axes:
    """Names points to the right of the axes, a thin line from each point to its name.

    ends: (x, y) in data units, once the limits are final. Returns the axes.
    """
    axes.autoscale_view()
    to_fraction = axes.transAxes.inverted()
    heights = [float(to_fraction.transform(axes.transData.transform(end))[1]) for end in ends]
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None
    assert place is not None
    points = 72 * 0.8 * figure.get_figheight() / place.get_gridspec().nrows
    for end, height, text, colour in zip(ends, spread(heights, 1.35 * FONT / points), texts, colours, strict=True):
        line: Ink = {
            "arrowstyle": "-",
            "color": colour,
            "linewidth": 0.8,
            "alpha": 0.75,
            "relpos": (0, 0.5),
            "shrinkA": 1,
            "shrinkB": 3,
        }
        axes.annotate(
            text, end, (1.035, height), textcoords="axes fraction", va="center", fontsize=FONT - 0.5, arrowprops=line
        )
    return axes


def log_ticks(axes: Axes, which: str) -> Axes:
    """A logarithmic axis, ``x`` or ``y``, with plain numbers at its ticks: 0.01, not 10⁻²."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    return axes


def save(figure: Figure, store: Store, name: str) -> tuple[Path, ...]:
    """Writes NAME.png (150 dots an inch, white) and NAME.svg (transparent, text as text); the same bytes each time."""
    kinds: dict[str, Ink] = {"png": {"facecolor": "white"}, "svg": {"transparent": True, "metadata": {"Date": None}}}
    paths = {suffix: folder(store) / f"{name}.{suffix}" for suffix in kinds}
    for suffix, options in kinds.items():
        file = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(file, format=suffix, dpi=DPI, **options)
        store.write_bytes(paths[suffix], file.getvalue())
        figure.set_layout_engine("none")  # laid out once, for both
    return tuple(paths.values())


def folder(store: Store) -> Path:
    """Where a store's figures lie."""
    return store.report_dir / "figures"
