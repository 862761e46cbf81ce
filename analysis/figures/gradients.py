"""Gradient norms of the label's logit and of the other logits, ours and the paper's."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import paper
from analysis.figures import canvas
from analysis.figures.canvas import Look, NothingToDraw, Options
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import GRAD_NORM_LABEL, GRAD_NORM_OTHER

METRICS = (GRAD_NORM_LABEL, GRAD_NORM_OTHER)

#: Arm → metric → mean gradient norm, logits per pixel unit.
Norms = dict[str, dict[str, Interval]]


def gradient_norms(results: Results) -> tuple[Norms, Norms]:
    """Return our norms of the arms that have any, in the study's order, and the paper's of the arms that it has."""
    ours: Norms = {}
    printed: Norms = {}
    for name, arm in results.study.arms.items():
        for metric in METRICS:
            interval = results.estimate(name, metric).interval
            of_paper = paper.published(results.study.data.name, name, metric)
            if interval:
                ours.setdefault(name, {})[metric] = interval
            if of_paper and paper.corresponds(name, arm):
                printed.setdefault(name, {})[metric] = of_paper
    return ours, printed


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw one row per arm."""
    ours, printed = gradient_norms(results)
    if not ours:
        raise NothingToDraw("no repeat has gradient norms yet")
    drawing, (axes,) = canvas.panels(1, height=0.85 + 0.34 * len(ours))
    draw_norms(axes, ours, printed, canvas.looks(results))
    n_by_arm = {arm: min(interval.n for interval in by_metric.values()) for arm, by_metric in ours.items()}
    caption = (
        "Mean l2 norms of the logits' input gradients on training images: filled, of the label's logit; hollow, the"
        f" mean over the other logits; {canvas.describe_means(n_by_arm, results)}."
    )
    if printed:
        caption += " Upright ticks: the paper's Table 3, with the paper's set-up."
    return drawing, caption


def draw_norms(axes: Axes, ours: Norms, printed: Norms, look: dict[str, Look]) -> None:
    """Draw two points per arm, the label's above the others'."""
    for place, (arm, by_metric) in enumerate(ours.items()):
        for shift, metric, face in ((-0.14, GRAD_NORM_LABEL, look[arm].colour), (0.14, GRAD_NORM_OTHER, "none")):
            if metric in printed.get(arm, {}):
                tick: Options = {"color": canvas.MUTED, "markersize": 10, "markeredgewidth": 1.6}
                axes.plot(printed[arm][metric].mean, place + shift, "|", **tick)
            if metric in by_metric:
                bar: Options = {"xerr": canvas.reach(by_metric[metric]), "elinewidth": 1.5, "markersize": 5.5}
                bar |= {"color": look[arm].colour, "markerfacecolor": face}
                axes.errorbar(by_metric[metric].mean, place + shift, fmt="o", **bar)
    axes.set_yticks(range(len(ours)), [look[arm].name for arm in ours], color=canvas.INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="mean gradient norm, logits per unit of a pixel", ylim=(len(ours) - 0.5, -0.5))
    axes.set_xlim(left=0)
    marks = [("o", canvas.INK, canvas.INK, "label"), ("o", canvas.INK, "none", "other labels")]
    marks += [("|", canvas.MUTED, canvas.MUTED, "paper")] if printed else []
    for marker, colour, face, name in marks:
        axes.plot([], [], marker, color=colour, markerfacecolor=face, label=name, markersize=6)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=canvas.FONT - 0.5, borderpad=0)
