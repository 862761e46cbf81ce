"""Accuracy by the radius of the attack, from the honesty checks of the repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.canvas import (
    FONT,
    MUTED,
    Look,
    NothingToDraw,
    Options,
    describe_n,
    height_for,
    label,
    looks,
    panels,
    titles,
)
from analysis.results.results import Results
from analysis.statistics.intervals import student_t
from analysis.tables.honesty import collect_checks
from tune_interpreg.store.store import Store

Array = np.ndarray


@dataclass(frozen=True)
class RadiusCurve:
    """Accuracy in percent at rising radii: mean over n seeds, half-width of the 95% interval (NaN if n = 1)."""

    radii_R: Array
    mean_R: Array
    half_width_R: Array
    n: int


def radius_curves(results: Results) -> dict[str, RadiusCurve]:
    """Return arm → accuracy by radius, at the radii that all of its checked seeds have."""
    curves = {}
    for arm, seeds in collect_checks(results).items():
        by_seed = [by_radius for by_radius in map(_by_radius, seeds.values()) if by_radius]
        curve = _average(by_seed) if by_seed else None
        if curve:
            curves[arm] = curve
    return curves


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw one line per arm."""
    curves = radius_curves(results)
    if not curves:
        raise NothingToDraw("no repeat was checked at several radii")
    drawing, (axes,) = panels(1, height=height_for(len(curves), 3.2))
    draw_curves(axes, curves, looks(results.study), titles(results))
    attack = results.study.evaluation_attack
    axes.axvline(attack.eps, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    spot: Options = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
    axes.annotate(f"ε = {attack.eps:g}", (attack.eps, 1), (4, -2), color=MUTED, fontsize=FONT - 1, **spot)
    n_by_arm = {arm: curve.n for arm, curve in curves.items()}
    single = ", of a single seed none" if 1 in n_by_arm.values() else ""
    caption = (
        f"Adversarial accuracy by the radius of the attack ({attack.norm}, {attack.steps} steps), on the validation"
        f" images of the checks: means over {describe_n(n_by_arm, results)}, in a band of their 95% Student t"
        f" interval{single}. Dashed: the radius of the tables."
    )
    return drawing, caption


def draw_curves(axes: Axes, curves: dict[str, RadiusCurve], look: dict[str, Look], names: dict[str, str]) -> Axes:
    """Draw one line and band per arm, named at the right; return the axes."""
    for arm, curve in curves.items():
        style: Options = {"color": look[arm].colour, "marker": look[arm].marker, "markersize": 4}
        axes.plot(curve.radii_R, curve.mean_R, **style)
        low_R, high_R = (np.clip(curve.mean_R + sign * curve.half_width_R, 0, 100) for sign in (-1, 1))
        axes.fill_between(curve.radii_R, low_R, high_R, color=look[arm].colour, alpha=0.16, linewidth=0)
    axes.set(xlabel="radius ε", ylabel="adversarial accuracy, %", ylim=(0, 100))
    axes.set_xlim(left=0)
    ends = [(float(curve.radii_R[-1]), float(curve.mean_R[-1])) for curve in curves.values()]
    return label(axes, ends, [names[arm] for arm in curves], [look[arm].colour for arm in curves])


def _by_radius(checks: list[Mapping[str, Any]]) -> dict[float, float]:
    """Return radius → accuracy in percent from one seed's checks, without the unbounded attack."""
    accuracies: dict[str, float] = {}
    for check in checks:
        if check["check"] == "radius":
            accuracies |= check["values"]
    return {float(radius): 100 * float(value) for radius, value in accuracies.items() if radius != "inf"}


def _average(by_seed: list[dict[float, float]]) -> RadiusCurve | None:
    radii = sorted(set.intersection(*map(set, by_seed)))
    if not radii:
        return None
    intervals = [student_t([accuracies[radius] for accuracies in by_seed]) for radius in radii]
    widths = [np.nan if interval.half_width is None else interval.half_width for interval in intervals]
    means = [interval.mean for interval in intervals]
    return RadiusCurve(np.asarray(radii), np.asarray(means), np.asarray(widths), len(by_seed))
