"""Accuracies of the arms of several stores: a row per arm, a colour per store."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import canvas
from analysis.figures.canvas import COLOURS, MARKERS, NothingToDraw, Options
from analysis.results.results import Results
from analysis.results.stores import list_arms
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_STRICT

PANELS = {TEST_ACCURACY: "Clean accuracy, %", TEST_STRICT: "Adversarial accuracy (strict), %"}


def figure(stores: Mapping[str, Results]) -> tuple[Figure, str]:
    """Draw clean accuracy on the left, adversarial accuracy on the right."""
    arms, drawn = list_arms(stores), 0
    looks = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(stores)}
    drawing, axes = canvas.panels(len(PANELS), height=1.15 + 0.26 * len(arms))
    for panel, (metric, title) in zip(axes, PANELS.items(), strict=True):
        for place, arm in enumerate(arms):
            interval = arm.results.estimate(arm.name, metric, 100).interval
            if interval:
                colour, marker = looks[arm.store]
                bars: Options = {"xerr": canvas.reach(interval), "elinewidth": 1.3}
                panel.errorbar(interval.mean, place, fmt=marker, color=colour, markersize=5, **bars)
                drawn += 1
        labels = [canvas.shorten(arm.results.title(arm.name)) for arm in arms] if panel is axes[0] else []
        panel.set_yticks(range(len(arms)), labels or [""] * len(arms), color=canvas.INK)
        panel.tick_params(axis="y", length=0)
        panel.set(title=title, ylim=(len(arms) - 0.5, -0.5))
    if not drawn:
        raise NothingToDraw("no repeat of any store has an accuracy on test images yet")
    names = [Line2D([], [], color=c, marker=m, linestyle="", label=name) for name, (c, m) in looks.items()]
    drawing.legend(handles=names, loc="outside lower left", ncols=3)
    counts = ", ".join(f"{name} {results.seed_count}" for name, results in stores.items())
    attack = next(iter(stores.values())).study.evaluation_attack
    caption = (
        "Accuracy on test images: means over seeds with 95% Student t intervals, of a single seed Wilson's over its"
        f" images; seeds: {counts}. Strict attack, {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps."
    )
    return drawing, caption
