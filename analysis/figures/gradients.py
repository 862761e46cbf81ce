"""Gradient norms of the label's logit and of the other logits, ours and the paper's."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import paper
from analysis.figures import canvas
from analysis.figures.canvas import Look, NothingToDraw, Options
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import GRAD_NORM_LABEL, GRAD_NORM_OTHER

METRICS = (GRAD_NORM_LABEL, GRAD_NORM_OTHER)


@dataclass(frozen=True)
class ArmNorms:
    """Mean gradient norms of one arm by metric, logits per pixel unit: ours, and the paper's if it has the arm."""

    ours: dict[str, Interval]
    theirs: dict[str, Interval]


def gradient_norms(results: Results) -> dict[str, ArmNorms]:
    """Return arm → gradient norms, in the study's order; arms without any are left out."""
    by_arm: dict[str, ArmNorms] = {}
    for name, arm in results.study.arms.items():
        ours, theirs = {}, {}
        for metric in METRICS:
            interval = results.estimate(name, metric).interval
            printed = paper.published(results.study.data.name, name, metric)
            if interval:
                ours[metric] = interval
            if printed and paper.corresponds(name, arm):
                theirs[metric] = printed
        if ours:
            by_arm[name] = ArmNorms(ours, theirs)
    return by_arm


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw one row per arm."""
    norms = gradient_norms(results)
    if not norms:
        raise NothingToDraw("no repeat has gradient norms yet")
    drawing, (axes,) = canvas.panels(1, height=0.85 + 0.34 * len(norms))
    drawing.set_figwidth(canvas.WIDTH)
    draw_norms(axes, norms, canvas.looks(results))
    n_by_arm = {arm: min(interval.n for interval in of_arm.ours.values()) for arm, of_arm in norms.items()}
    single = ", of a single seed none" if 1 in n_by_arm.values() else ""
    caption = (
        "Mean l2 norms of the logits' input gradients on training images: filled, of the label's logit; hollow, the"
        f" mean over the other logits. Means over {canvas.describe_n(n_by_arm, results)} with 95% Student t"
        f" intervals{single}."
    )
    if any(of_arm.theirs for of_arm in norms.values()):
        caption += " Upright ticks: the paper's Table 3, with the paper's set-up."
    return drawing, caption


def draw_norms(axes: Axes, norms: dict[str, ArmNorms], look: dict[str, Look]) -> None:
    """Draw two points per arm, the label's above the others'."""
    for place, (arm, of_arm) in enumerate(norms.items()):
        for shift, metric, face in ((-0.14, GRAD_NORM_LABEL, look[arm].colour), (0.14, GRAD_NORM_OTHER, "none")):
            if metric in of_arm.theirs:
                tick: Options = {"color": canvas.MUTED, "markersize": 10, "markeredgewidth": 1.6}
                axes.plot(of_arm.theirs[metric].mean, place + shift, "|", **tick)
            if metric in of_arm.ours:
                interval = of_arm.ours[metric]
                style: Options = {"color": look[arm].colour, "markerfacecolor": face, "markersize": 5.5}
                axes.errorbar(
                    interval.mean, place + shift, xerr=canvas.reach(interval), fmt="o", elinewidth=1.5, **style
                )
    axes.set_yticks(range(len(norms)), [look[arm].name for arm in norms], color=canvas.INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="mean gradient norm", ylim=(len(norms) - 0.5, -0.5))
    axes.set_xlim(left=0)
    marks = [_mark("o", canvas.INK, canvas.INK, "label"), _mark("o", canvas.INK, "none", "other labels")]
    if any(of_arm.theirs for of_arm in norms.values()):
        marks.append(_mark("|", canvas.MUTED, canvas.MUTED, "paper"))
    axes.legend(
        handles=marks, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=canvas.FONT - 0.5, borderpad=0
    )


def _mark(marker: str, colour: str, face: str, name: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, label=name, markersize=6)
