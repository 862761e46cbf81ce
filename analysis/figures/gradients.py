"""Gradient norms of the label's logit and of the others', ours and the paper's."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import paper
from analysis.figures.canvas import (
    FONT,
    INK,
    MUTED,
    WIDTH,
    Ink,
    Look,
    NothingToDraw,
    counted,
    looks,
    panels,
    reach,
    titles,
)
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from tune_interpreg.store.store import Store

METRICS = {"label": paper.GRAD_LABEL, "other": paper.GRAD_OTHER}


@dataclass(frozen=True)
class Norms:
    """One arm's mean norms by metric, output per pixel: ours, and the paper's where it has the arm."""

    ours: dict[str, Interval]
    theirs: dict[str, Interval]


def norms(results: Results) -> dict[str, Norms]:
    """arm → gradient norms, in the study's order; arms without any are left out."""
    found: dict[str, Norms] = {}
    for name, arm in results.study.arms.items():
        held = {metric: results.estimate(name, metric).interval for metric in METRICS.values()}
        ours = {metric: one for metric, one in held.items() if one}
        named = METRICS.values() if paper.corresponds(name, arm) else ()
        published = {metric: paper.published(results.study.data.name, name, metric) for metric in named}
        if ours:
            found[name] = Norms(ours, {metric: one for metric, one in published.items() if one})
    return found


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """A row an arm."""
    found = norms(results)
    if not found:
        raise NothingToDraw("no repeat has gradient norms yet")
    drawing, (axes,) = panels(1, height=0.85 + 0.34 * len(found))
    drawing.set_figwidth(WIDTH)
    draw_norms(axes, found, looks(results.study), titles(results))
    counts = {arm: min(one.n for one in norms.ours.values()) for arm, norms in found.items()}
    single = ", of a single seed none" if 1 in counts.values() else ""
    caption = (
        "Mean l2 norms of the logits' input gradients on training images: filled, of the label's logit; hollow, the"
        f" mean over the other logits; means over {counted(counts, results)} with 95% Student t intervals{single}."
    )
    printed = any(one.theirs for one in found.values())
    return drawing, caption + (" Upright ticks: the paper's Table 3, its set-up aside." if printed else "")


def draw_norms(axes: Axes, found: dict[str, Norms], look: dict[str, Look], names: dict[str, str]) -> Axes:
    """Two points an arm, the label's above the others'; returns the axes."""
    for place, (arm, one) in enumerate(found.items()):
        for shift, metric, filled in ((-0.14, paper.GRAD_LABEL, True), (0.14, paper.GRAD_OTHER, False)):
            at = place + shift
            if metric in one.theirs:
                axes.plot(one.theirs[metric].mean, at, "|", color=MUTED, markersize=10, markeredgewidth=1.6)
            if metric in one.ours:
                face: Ink = {"markerfacecolor": look[arm].colour if filled else "none", "markersize": 5.5}
                own: Ink = {"color": look[arm].colour, "elinewidth": 1.5} | face
                axes.errorbar(one.ours[metric].mean, at, xerr=reach(one.ours[metric]), fmt="o", **own)
    axes.set_yticks(range(len(found)), [names[arm] for arm in found], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="mean gradient norm", ylim=(len(found) - 0.5, -0.5))
    axes.set_xlim(left=0)
    marks = [_mark("o", INK, INK, "label"), _mark("o", INK, "none", "other labels")]
    if any(one.theirs for one in found.values()):
        marks.append(_mark("|", MUTED, MUTED, "paper"))
    axes.legend(handles=marks, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=FONT - 0.5, borderpad=0)
    return axes


def _mark(marker: str, colour: str, face: str, name: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, label=name, markersize=6)
