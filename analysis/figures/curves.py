"""Learning curves of the repeats, each a mean over seeds in the band of its seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.canvas import Ink, Look, NothingToDraw, counted, label, log_ticks, looks, panels, room, titles
from analysis.results import rows
from analysis.results.results import Results
from tune_interpreg.store.store import Store

Array = np.ndarray

#: metric → (title, factor to the unit shown)
PANELS = {"val/accuracy": ("Validation accuracy, %", 100.0), "train/loss": ("Training loss", 1.0)}


@dataclass(frozen=True)
class Curve:
    """A metric by epoch, counted from 1, over n seeds: mean, lowest and highest."""

    epochs_E: Array
    mean_E: Array
    low_E: Array
    high_E: Array
    n: int


def curves(results: Results, metric: str, factor: float = 1.0) -> dict[str, Curve]:
    """arm → the metric's curve over its finished repeats; epochs that a seed lacks are left out."""
    found: dict[str, Curve] = {}
    for arm, group in results.current.repeats.items():
        trained = rows.finished_repeats(group, results.study.seeds)
        by_seed = {
            seed: record["curves"][str(seed)]
            for seed, record in trained.items()
            if str(seed) in record.get("curves", {})
        }
        lines = [[epoch.get(metric, np.nan) for epoch in curve] for curve in by_seed.values()]
        if lines and (curve := _curve(lines, factor)):
            found[arm] = curve
    return found


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """A panel a metric."""
    found = {metric: curves(results, metric, factor) for metric, (_, factor) in PANELS.items()}
    known = {metric: by_arm for metric, by_arm in found.items() if by_arm}
    if not known:
        raise NothingToDraw("no finished repeat holds its curves")
    look = looks(results.study)
    drawing, axes = panels(len(known), height=room(max(map(len, known.values())), 2.9))
    for place, (metric, by_arm) in zip(axes, known.items(), strict=True):
        draw_curves(place, by_arm, look)
        place.set(title=PANELS[metric][0], xlabel="epoch")
    if "train/loss" in known and spans_decades(known["train/loss"]):
        log_ticks(axes[-1], "y")
    name_ends(axes[-1], by_arm, look, titles(results))
    shown = [(arm, curve.n) for curves_of in known.values() for arm, curve in curves_of.items()]
    counts = {arm: min(n for name, n in shown if name == arm) for arm, _ in shown}
    caption = (
        f"Repeats by epoch: mean over {counted(counts, results)}, in a band from the lowest to the highest seed. The"
        " training loss holds each arm's own penalty, and that of adversarial training its attack, so its level"
        " compares matched arms only."
    )
    return drawing, caption


def spans_decades(by_arm: dict[str, Curve]) -> bool:
    """Whether the curves are positive and the highest value is eight times the lowest or more."""
    lowest = min(float(curve.low_E.min()) for curve in by_arm.values())
    return lowest > 0 and max(float(curve.high_E.max()) for curve in by_arm.values()) >= 8 * lowest


def draw_curves(axes: Axes, by_arm: dict[str, Curve], look: dict[str, Look]) -> Axes:
    """One line and band an arm; returns the axes."""
    for arm, curve in by_arm.items():
        dot: Ink = {"marker": look[arm].marker, "markersize": 3} if len(curve.epochs_E) < 8 else {}
        axes.plot(curve.epochs_E, curve.mean_E, color=look[arm].colour, **dot)
        axes.fill_between(curve.epochs_E, curve.low_E, curve.high_E, color=look[arm].colour, alpha=0.16, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def name_ends(axes: Axes, by_arm: dict[str, Curve], look: dict[str, Look], names: dict[str, str]) -> Axes:
    """The arms' names, each at the end of its line; returns the axes."""
    ends = [(float(curve.epochs_E[-1]), float(curve.mean_E[-1])) for curve in by_arm.values()]
    return label(axes, ends, [names[arm] for arm in by_arm], [look[arm].colour for arm in by_arm])


def _curve(lines: list[list[float]], factor: float) -> Curve | None:
    length = min(map(len, lines))
    values_SE = factor * np.asarray([line[:length] for line in lines], dtype=float)
    whole_E = np.isfinite(values_SE).all(0)
    if not whole_E.any():
        return None
    epochs_E, kept_SE = 1 + np.flatnonzero(whole_E), values_SE[:, whole_E]
    return Curve(epochs_E, kept_SE.mean(0), kept_SE.min(0), kept_SE.max(0), len(lines))
