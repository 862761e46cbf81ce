"""Curves in bands: learning curves of the repeats, and accuracy by the radius of the attack."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import canvas
from analysis.figures.canvas import Look, NothingToDraw, Options
from analysis.results.results import Results
from analysis.statistics.intervals import student_t
from analysis.tables.honesty import collect_checks
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import TRAIN_LOSS, VAL_ACCURACY

Array = np.ndarray

#: Metric → (title, factor to the unit shown).
PANELS = {VAL_ACCURACY: ("Validation accuracy, %", 100.0), TRAIN_LOSS: ("Training loss", 1.0)}


@dataclass(frozen=True)
class Curve:
    """A mean over n seeds at P points, in a band; low_P and high_P are NaN where there is no band."""

    x_P: Array
    mean_P: Array
    low_P: Array
    high_P: Array
    n: int


def learning_curves(results: Results, metric: str, factor: float = 1.0) -> dict[str, Curve]:
    """Return arm → factor · metric by epoch, counted from 1, in a band of all seeds, at epochs that all seeds have."""
    by_arm: dict[str, Curve] = {}
    for arm in results.study.arms:
        of_seeds = [record.get("curve") for record in results.current.finished_repeats(arm).values()]
        lines = [[epoch.get(metric, np.nan) for epoch in curve] for curve in of_seeds if curve is not None]
        if not lines:
            continue
        length = min(map(len, lines))
        values_SE = factor * np.asarray([line[:length] for line in lines], dtype=float)
        complete_E = np.isfinite(values_SE).all(0)
        if complete_E.any():
            epochs_P, values_SP = 1 + np.flatnonzero(complete_E), values_SE[:, complete_E]
            by_arm[arm] = Curve(epochs_P, values_SP.mean(0), values_SP.min(0), values_SP.max(0), len(lines))
    return by_arm


def radius_curves(results: Results) -> dict[str, Curve]:
    """Return arm → accuracy in percent by radius in its 95% interval, at the radii that all checked seeds have."""
    accuracies: dict[str, list[dict[float, float]]] = {}
    for (arm, _), checks in collect_checks(results).items():
        by_radius = {
            float(radius): 100 * float(share)
            for check in checks
            if check["check"] == "radius"
            for radius, share in check["values"].items()
            if radius != "inf"  # the unbounded attack
        }
        if by_radius:
            accuracies.setdefault(arm, []).append(by_radius)
    by_arm: dict[str, Curve] = {}
    for arm, by_seed in accuracies.items():
        radii = sorted(set.intersection(*map(set, by_seed)))
        if radii:
            intervals = [student_t([by_radius[radius] for by_radius in by_seed]) for radius in radii]
            low_P, high_P = np.asarray([interval.ends or (np.nan, np.nan) for interval in intervals]).T
            mean_P = np.asarray([interval.mean for interval in intervals])
            by_arm[arm] = Curve(np.asarray(radii), mean_P, low_P, high_P, len(by_seed))
    return by_arm


def learning_figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw one panel per metric."""
    all_curves = {metric: learning_curves(results, metric, factor) for metric, (_, factor) in PANELS.items()}
    shown = {metric: by_arm for metric, by_arm in all_curves.items() if by_arm}
    if not shown:
        raise NothingToDraw("no finished repeat has curves")
    look = canvas.looks(results)
    figure, axes = canvas.panels(len(shown), height=canvas.height_for(max(map(len, shown.values())), 2.9))
    n_by_arm: dict[str, int] = {}
    for panel, (metric, by_arm) in zip(axes, shown.items(), strict=True):
        draw_curves(panel, by_arm, look, points_up_to=8)
        panel.set(title=PANELS[metric][0], xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        n_by_arm |= {arm: min(curve.n, n_by_arm.get(arm, curve.n)) for arm, curve in by_arm.items()}
    losses = shown.get(TRAIN_LOSS, {}).values()
    canvas.log_if_wide(axes[-1], np.concatenate([[curve.low_P.min(), curve.high_P.max()] for curve in losses] or [[0]]))
    canvas.label(axes[-1], {arm: (curve.x_P[-1], curve.mean_P[-1]) for arm, curve in by_arm.items()}, look)
    caption = (
        f"Repeats by epoch: mean over {canvas.describe_n(n_by_arm, results)}, in a band from the lowest to the highest"
        " seed. The training loss includes each arm's own penalty, and in adversarial training the attack, so compare"
        " its level only between matched arms."
    )
    return figure, caption


def radius_figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw one line per arm."""
    curves = radius_curves(results)
    if not curves:
        raise NothingToDraw("no repeat was checked at several radii")
    look, attack = canvas.looks(results), results.study.evaluation_attack
    figure, (axes,) = canvas.panels(1, height=canvas.height_for(len(curves), 3.2))
    draw_curves(axes, curves, look, points_up_to=1_000)
    axes.set(xlabel=f"radius ε ({attack.norm}, pixels in [0, 1])", ylabel="adversarial accuracy, %", ylim=(0, 100))
    axes.set_xlim(left=0)
    axes.axvline(attack.eps, zorder=1, **canvas.DASHED)
    canvas.annotate(axes, f"ε = {attack.eps:g}", (attack.eps, 1), (4, -2), xycoords=("data", "axes fraction"), va="top")
    canvas.label(axes, {arm: (curve.x_P[-1], curve.mean_P[-1]) for arm, curve in curves.items()}, look)
    means = canvas.describe_means({arm: curve.n for arm, curve in curves.items()}, results)
    caption = (
        f"Adversarial accuracy by the radius of the attack ({attack.norm}, {attack.steps} steps), on the validation"
        f" images of the checks: {means} as bands. Dashed: the radius of the tables."
    )
    return figure, caption


def draw_curves(axes: Axes, by_arm: Mapping[str, Curve], look: Mapping[str, Look], *, points_up_to: int) -> None:
    """Draw one line and band per arm, with markers on curves of fewer points than ``points_up_to``."""
    for arm, curve in by_arm.items():
        marks: Options = {"marker": look[arm].marker, "markersize": 3.5} if len(curve.x_P) < points_up_to else {}
        axes.plot(curve.x_P, curve.mean_P, color=look[arm].colour, **marks)
        axes.fill_between(curve.x_P, curve.low_P, curve.high_P, color=look[arm].colour, alpha=0.16, linewidth=0)
