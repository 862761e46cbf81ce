"""Learning curves of the repeats: means over seeds, in a band from the lowest to the highest seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.canvas import (
    Look,
    NothingToDraw,
    Options,
    describe_n,
    height_for,
    label,
    log_ticks,
    looks,
    panels,
    titles,
)
from analysis.results import rows
from analysis.results.results import Results
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import TRAIN_LOSS, VAL_ACCURACY

Array = np.ndarray

#: Metric → (title, factor to the unit shown).
PANELS = {VAL_ACCURACY: ("Validation accuracy, %", 100.0), TRAIN_LOSS: ("Training loss", 1.0)}


@dataclass(frozen=True)
class Curve:
    """A metric per epoch, counted from 1: mean, lowest and highest of n seeds."""

    epochs_E: Array
    mean_E: Array
    low_E: Array
    high_E: Array
    n: int


def curves(results: Results, metric: str, factor: float = 1.0) -> dict[str, Curve]:
    """Return arm → the metric's curve over its finished repeats; epochs that a seed lacks are left out."""
    by_arm: dict[str, Curve] = {}
    for arm, group in results.current.repeats.items():
        lines = []
        for seed, record in rows.finished_repeats(group, results.study.seeds).items():
            if str(seed) in record.get("curves", {}):
                lines.append([epoch.get(metric, np.nan) for epoch in record["curves"][str(seed)]])
        curve = _curve(lines, factor) if lines else None
        if curve:
            by_arm[arm] = curve
    return by_arm


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw one panel per metric."""
    shown = {metric: curves(results, metric, factor) for metric, (_, factor) in PANELS.items()}
    shown = {metric: by_arm for metric, by_arm in shown.items() if by_arm}
    if not shown:
        raise NothingToDraw("no finished repeat has curves")
    look = looks(results.study)
    drawing, axes = panels(len(shown), height=height_for(max(map(len, shown.values())), 2.9))
    for panel, (metric, by_arm) in zip(axes, shown.items(), strict=True):
        draw_curves(panel, by_arm, look)
        panel.set(title=PANELS[metric][0], xlabel="epoch")
    if spans_decades(shown.get(TRAIN_LOSS, {})):
        log_ticks(axes[-1], "y")
    ends = [(float(curve.epochs_E[-1]), float(curve.mean_E[-1])) for curve in by_arm.values()]
    label(axes[-1], ends, [titles(results)[arm] for arm in by_arm], [look[arm].colour for arm in by_arm])
    n_by_arm: dict[str, int] = {}
    for of_metric in shown.values():
        for arm, curve in of_metric.items():
            n_by_arm[arm] = min(curve.n, n_by_arm.get(arm, curve.n))
    caption = (
        f"Repeats by epoch: mean over {describe_n(n_by_arm, results)}, in a band from the lowest to the highest seed."
        " The training loss includes each arm's own penalty, and in adversarial training the attack, so compare its"
        " level only between matched arms."
    )
    return drawing, caption


def spans_decades(by_arm: dict[str, Curve]) -> bool:
    """Return True if the curves are positive and the highest value is at least eight times the lowest."""
    lowest = min((float(curve.low_E.min()) for curve in by_arm.values()), default=0.0)
    return lowest > 0 and max(float(curve.high_E.max()) for curve in by_arm.values()) >= 8 * lowest


def draw_curves(axes: Axes, by_arm: dict[str, Curve], look: dict[str, Look]) -> Axes:
    """Draw one line and band per arm; return the axes."""
    for arm, curve in by_arm.items():
        dot: Options = {"marker": look[arm].marker, "markersize": 3} if len(curve.epochs_E) < 8 else {}
        axes.plot(curve.epochs_E, curve.mean_E, color=look[arm].colour, **dot)
        axes.fill_between(curve.epochs_E, curve.low_E, curve.high_E, color=look[arm].colour, alpha=0.16, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def _curve(lines: list[list[float]], factor: float) -> Curve | None:
    length = min(map(len, lines))
    values_SE = factor * np.asarray([line[:length] for line in lines], dtype=float)
    complete_E = np.isfinite(values_SE).all(0)
    if not complete_E.any():
        return None
    epochs_E, values_SE = 1 + np.flatnonzero(complete_E), values_SE[:, complete_E]
    return Curve(epochs_E, values_SE.mean(0), values_SE.min(0), values_SE.max(0), len(lines))
