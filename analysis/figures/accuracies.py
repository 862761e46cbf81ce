"""Clean against adversarial accuracy: of all search trials on validation images, and of the repeats on test images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import paper
from analysis.figures.canvas import (
    FONT,
    INK,
    MANY,
    MUTED,
    Ink,
    Look,
    NothingToDraw,
    counted,
    label,
    looks,
    panels,
    reach,
    room,
    titles,
)
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store

Array = np.ndarray


@dataclass(frozen=True)
class Final:
    """Test accuracies of one arm's repeats, percent."""

    clean: Interval
    adversarial: Interval

    @property
    def n(self) -> int:
        """The seeds that both rest on."""
        return min(self.clean.n, self.adversarial.n)


def trials(results: Results) -> dict[str, Array]:
    """arm → (clean, adversarial) validation accuracy of its finished search trials, T×2, percent."""
    found: dict[str, list[tuple[float, float]]] = {}
    for arm, tried in results.current.trials.items():
        for record in [record for record in tried if record["state"] == "done"]:
            clean, adversarial = (ledger.mean(record, f"val/{name}") for name in ("accuracy", "adv_accuracy"))
            if clean is not None and adversarial is not None:
                found.setdefault(arm, []).append((100 * clean, 100 * adversarial))
    return {arm: np.asarray(points) for arm, points in found.items()}


def front(points_T2: Array) -> Array:
    """The points that no other one beats in both columns, by rising first column; equal points count once."""
    ordered_T2 = np.unique(points_T2, axis=0)[::-1]
    best_T = np.maximum.accumulate(ordered_T2[:, 1])
    kept_T = np.r_[True, ordered_T2[1:, 1] > best_T[:-1]]
    return ordered_T2[kept_T][::-1]


def window(values_T: Array) -> tuple[float, float]:
    """Limits of an axis that a few far low values do not squeeze: from max(min, q₁ − 3·(q₃ − q₁)) to max, and 6%."""
    first, third = np.quantile(values_T, (0.25, 0.75))
    low, high = max(values_T.min(), first - 3 * (third - first)), values_T.max()
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def finals(results: Results) -> dict[str, Final]:
    """arm → test accuracies, the adversarial one under the strict attack; arms without either are left out."""
    found = {
        arm: [results.estimate(arm, metric, 100).interval for metric in (paper.ACCURACY, paper.ADV_STRICT)]
        for arm in results.study.arms
    }
    return {arm: Final(clean, strict) for arm, (clean, strict) in found.items() if clean and strict}


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Left, search trials and their Pareto front; right, repeats with intervals; one of them where the other lacks."""
    tried, repeated = trials(results), finals(results)
    if not tried and not repeated:
        raise NothingToDraw("no trial has both accuracies yet")
    look = looks(results.study)
    drawing, axes = panels(bool(tried) + bool(repeated), height=room(len(repeated), 3.3))
    said = []
    if tried:
        draw_trials(axes[0], tried, look)
        count = sum(map(len, tried.values()))
        said.append(
            f"Search: {count} trials of {len(tried)} arms, one seed each, on validation images; line: Pareto front."
        )
    if repeated:
        draw_finals(axes[-1], repeated, look, titles(results))
        attack = results.study.evaluation_attack
        said.append(
            f"Repeats: means over {counted({arm: one.n for arm, one in repeated.items()}, results)} on test images with"
            f" {_intervals(repeated)}, strict attack, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps."
        )
    return drawing, " ".join([*said, "Colours are those of the arms in every figure."])


def _intervals(repeated: dict[str, Final]) -> str:
    single = [one.n == 1 for one in repeated.values()]
    if all(single):
        return "95% intervals of Wilson, of one model over its images"
    return "95% Student t intervals" + (", of a single seed Wilson's over its images" if any(single) else "")


def draw_trials(axes: Axes, tried: dict[str, Array], look: dict[str, Look]) -> Axes:
    """Search trials in their arms' colours, and the Pareto front of them all; returns the axes."""
    many = sum(map(len, tried.values())) > MANY
    for arm, points_T2 in tried.items():
        own: Ink = {"color": look[arm].colour, "marker": look[arm].marker, "rasterized": many}
        axes.plot(*points_T2.T, linestyle="", markersize=2.5 if many else 5, markeredgewidth=0, alpha=0.75, **own)
    every_T2 = np.concatenate(list(tried.values()))
    best = front(every_T2)
    axes.step(*best.T, where="pre", color=INK, linewidth=1, zorder=1)
    axes.annotate(
        "Pareto front", best[0], (0, 5), textcoords="offset points", ha="left", fontsize=FONT - 1, color=MUTED
    )
    clean, adversarial = (window(column_T) for column_T in every_T2.T)
    outside = int(((every_T2[:, 0] < clean[0]) | (every_T2[:, 1] < adversarial[0])).sum())
    if outside:
        told = f"{outside} trial{'s' * (outside > 1)} further out"
        axes.text(0.02, 0.02, told, transform=axes.transAxes, color=MUTED, fontsize=FONT - 1)
    axes.set(title="Search, validation images", xlabel="clean accuracy, %", ylabel="adversarial accuracy, %")
    axes.set(xlim=clean, ylim=adversarial)
    return axes


def draw_finals(axes: Axes, repeated: dict[str, Final], look: dict[str, Look], names: dict[str, str]) -> Axes:
    """Repeats as crosses of two intervals, named at the right, at their adversarial accuracy; returns the axes."""
    for arm, one in repeated.items():
        bars: Ink = {"xerr": reach(one.clean), "yerr": reach(one.adversarial), "elinewidth": 1.1}
        axes.errorbar(one.clean.mean, one.adversarial.mean, fmt=look[arm].marker, color=look[arm].colour, **bars)
    axes.set(title="Repeats, test images", xlabel="clean accuracy, %", ylabel="adversarial accuracy, %")
    axes.margins(0.08)
    edge = axes.get_xlim()[1]
    ends = [(edge, one.adversarial.mean) for one in repeated.values()]
    return label(axes, ends, [names[arm] for arm in repeated], [look[arm].colour for arm in repeated])
