"""Accuracy as the attack's radius grows, from the honesty checks of the repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.canvas import FONT, MUTED, Ink, Look, NothingToDraw, counted, label, looks, panels, room, titles
from analysis.results.results import Results
from analysis.statistics.intervals import student_t
from analysis.tables.honesty import checks
from tune_interpreg.store.store import Store

Array = np.ndarray


@dataclass(frozen=True)
class Fall:
    """Accuracy in percent at rising radii: mean over n seeds, half-width of the 95% interval (NaN where n = 1)."""

    radii_R: Array
    mean_R: Array
    half_width_R: Array
    n: int


def falls(results: Results) -> dict[str, Fall]:
    """arm → accuracy by radius, at the radii that each of its checked seeds has."""
    by_seed = {arm: [_by_radius(done) for done in seeds.values()] for arm, seeds in checks(results).items()}
    known = {arm: [one for one in found if one] for arm, found in by_seed.items()}
    return {arm: fall for arm, found in known.items() if (fall := _fall(found))}


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """A line an arm."""
    found = falls(results)
    if not found:
        raise NothingToDraw("no repeat was checked at several radii")
    drawing, (axes,) = panels(1, height=room(len(found), 3.2))
    draw_falls(axes, found, looks(results.study), titles(results))
    attack = results.study.evaluation_attack
    axes.axvline(attack.eps, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    spot: Ink = {
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
        "fontsize": FONT - 1,
        "va": "top",
    }
    axes.annotate(f"ε = {attack.eps:g}", (attack.eps, 1), (4, -2), color=MUTED, **spot)
    counts = {arm: fall.n for arm, fall in found.items()}
    single = ", of a single seed none" if 1 in counts.values() else ""
    caption = (
        f"Adversarial accuracy by the radius of the attack ({attack.norm}, {attack.steps} steps), on the validation"
        f" images of the checks: means over {counted(counts, results)}, in a band of their 95% Student t"
        f" interval{single}. Dashed: the radius of the tables."
    )
    return drawing, caption


def draw_falls(axes: Axes, found: dict[str, Fall], look: dict[str, Look], names: dict[str, str]) -> Axes:
    """One line and band an arm, named at the right; returns the axes."""
    for arm, fall in found.items():
        own: Ink = {"color": look[arm].colour, "marker": look[arm].marker, "markersize": 4}
        axes.plot(fall.radii_R, fall.mean_R, **own)
        edges = (np.clip(fall.mean_R + sign * fall.half_width_R, 0, 100) for sign in (-1, 1))
        axes.fill_between(fall.radii_R, *edges, color=look[arm].colour, alpha=0.16, linewidth=0)
    axes.set(xlabel="radius ε", ylabel="adversarial accuracy, %", ylim=(0, 100))
    axes.set_xlim(left=0)
    ends = [(float(fall.radii_R[-1]), float(fall.mean_R[-1])) for fall in found.values()]
    return label(axes, ends, [names[arm] for arm in found], [look[arm].colour for arm in found])


def _by_radius(done: list[Mapping[str, Any]]) -> dict[float, float]:
    """radius → accuracy in percent, of one seed's checks; the unbounded attack is left out."""
    found = {radius: value for one in done if one["check"] == "radius" for radius, value in one["values"].items()}
    return {float(radius): 100 * float(value) for radius, value in found.items() if radius != "inf"}


def _fall(by_seed: list[dict[float, float]]) -> Fall | None:
    shared = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    if not shared:
        return None
    intervals = [student_t([values[radius] for values in by_seed]) for radius in shared]
    widths = [np.nan if one.half_width is None else one.half_width for one in intervals]
    return Fall(np.asarray(shared), np.asarray([one.mean for one in intervals]), np.asarray(widths), len(by_seed))
