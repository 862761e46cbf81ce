"""Shared by all figures: sizes, colours, labels and saving."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.optimize import isotonic_regression

from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from tune_interpreg.store.store import Store

Array = np.ndarray
Options = dict[str, Any]  # keyword arguments of matplotlib

INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d1d9e0"

#: Okabe and Ito's palette for colour-blind readers, without yellow, which is too pale for lines.
COLOURS = (INK, "#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#009e73", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

WIDTH, DPI, FONT = 7.2, 150, 8.5  # inches, dots per inch, points

#: More points than this are rasterized in vector files.
MANY = 1_000

DASHED: Options = {"color": MUTED, "linestyle": (0, (4, 3)), "linewidth": 1}

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
    "text.parse_math": False,  # an arm's title may contain dollars
    "xtick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.color": FAINT,
    "ytick.labelcolor": MUTED,
}


class NothingToDraw(ValueError):
    """Raised if the store lacks the data of a figure; the message says what is missing."""


@dataclass(frozen=True)
class DrawnFigure:
    """A figure on disk; caption: content, n and method, or why it is left out; paths: PNG and SVG, if it is drawn."""

    name: str
    title: str
    caption: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Look:
    """The colour, marker and name of an arm in all figures."""

    colour: str
    marker: str
    name: str


def looks(results: Results) -> dict[str, Look]:
    """Return each arm's look, in the study's order; arms of the same colour have different markers."""
    by_arm = {}
    for place, arm in enumerate(results.study.arms):
        turn, colour = divmod(place, len(COLOURS))
        by_arm[arm] = Look(COLOURS[colour], MARKERS[turn % len(MARKERS)], short_title(results, arm))
    return by_arm


def short_title(results: Results, arm: str, longest: int = 32) -> str:
    """Return an arm's title on one line, cut to ``longest`` characters."""
    return shorten(results.title(arm), longest)


def shorten(text: str, longest: int = 32) -> str:
    """Return a text on one line, cut to ``longest`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def describe_means(n_by_arm: Mapping[str, int], results: Results, single: str = "none") -> str:
    """Return 'means over n = 5 seeds with 95% Student t intervals'; single: the interval of a mean of one seed."""
    of_single = f", of a single seed {single}" if 1 in n_by_arm.values() else ""
    return f"means over {describe_n(n_by_arm, results)} with 95% Student t intervals{of_single}"


def describe_n(n_by_arm: Mapping[str, int], results: Results) -> str:
    """Return 'n = 5 seeds', with what is missing: of how many seeds, and which arms have fewer."""
    most = max(n_by_arm.values())
    fewer = [f"{short_title(results, arm)} {n}" for arm, n in n_by_arm.items() if n < most]
    of = f" of {results.seed_count}" if most < results.seed_count else ""
    return f"n = {most}{of} seeds" + (f" (but {', '.join(fewer)})" if fewer else "")


def describe_trials(results: Results, arms: Collection[str]) -> str:
    """Return 'one seed each', or the numbers of seeds over which the trials of these arms' searches are means."""
    searches = [results.study.arms[arm].search for arm in arms]
    counts = sorted({search.seeds for search in searches if search})
    return "one seed each" if counts == [1] else f"means over {' or '.join(map(str, counts))} seeds"


def panels(count: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` axes, up to two in a row; height: inches of one row."""
    rows, columns = -(-count // 2), min(count, 2)
    margins = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.04)
    figure = Figure(figsize=(WIDTH, rows * height), layout=margins)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def height_for(names: int, least: float) -> float:
    """Return the inches of height that this many names below each other need, ``least`` or more."""
    return max(least, 0.85 + 0.19 * names)


def spread(places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Return the places moved as little as possible so that they are ``gap`` apart, within [low, high] if they fit.

    Least squares under z_{i+1} − z_i ≥ gap for the sorted places: isotonic regression of z_i − i·gap.
    """
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    free = isotonic_regression(np.asarray(places, dtype=float)[order] - steps).x
    placed = np.empty(len(places))
    placed[order] = np.clip(free, low, max(low, high - steps[-1])) + steps
    return placed.tolist()


def annotate(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **options: Any) -> Annotation:
    """Write a short remark at a point, moved by ``offset`` in typographic points."""
    style: Options = {"textcoords": "offset points", "fontsize": FONT - 1, "color": MUTED} | options
    return axes.annotate(text, at, offset, **style)


def reach(interval: Interval) -> Array | None:
    """Return the distances from an interval's mean to its ends, 2×1; None without an interval."""
    if interval.ends is None:
        return None
    return np.asarray([[interval.mean - interval.ends[0]], [interval.ends[1] - interval.mean]])


def label(axes: Axes, ends: Mapping[str, tuple[float, float]], look: Mapping[str, Look]) -> None:
    """Name arms to the right of the axes, with a thin line from each arm's end to its name.

    ends: arm → (x, y) in data units. Call it when the limits are final.
    """
    axes.autoscale_view()
    to_fraction = axes.transAxes.inverted()
    heights = [float(to_fraction.transform(axes.transData.transform(end))[1]) for end in ends.values()]
    figure, grid = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure
    assert grid
    points = 72 * 0.8 * figure.get_figheight() / grid.get_gridspec().nrows
    line: Options = {"arrowstyle": "-", "linewidth": 0.9, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 3}
    spot: Options = {"textcoords": "axes fraction", "va": "center", "fontsize": FONT - 0.5}
    for (arm, end), height in zip(ends.items(), spread(heights, 1.35 * FONT / points), strict=True):
        axes.annotate(look[arm].name, end, (1.07, height), arrowprops=line | {"color": look[arm].colour}, **spot)


def log_if_wide(axes: Axes, values: Collection[float]) -> None:
    """Make the y axis logarithmic if its values are positive and the highest is eight times the lowest or more."""
    if min(values) > 0 and max(values) >= 8 * min(values):
        log_ticks(axes, "y")


def log_ticks(axes: Axes, which: str) -> None:
    """Make an axis, ``x`` or ``y``, logarithmic with plain numbers at its ticks: 0.01, not 10⁻²."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, store: Store, path: Path) -> tuple[Path, ...]:
    """Write PATH.png (150 dpi, white) and PATH.svg (transparent, text as text), reproducible under ``STYLE``."""
    paths = tuple(path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg"))
    kinds: tuple[Options, ...] = ({"facecolor": "white"}, {"transparent": True, "metadata": {"Date": None}})
    for file, options in zip(paths, kinds, strict=True):
        content = io.BytesIO()
        figure.savefig(content, format=file.suffix[1:], dpi=DPI, **options)
        store.write_bytes(file, content.getvalue())
        figure.set_layout_engine("none")  # the layout is computed once, for both files
    return paths
