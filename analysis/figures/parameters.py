"""Every searched parameter against every metric of the trials: a row of panels per parameter, a panel per metric."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import canvas
from analysis.figures.canvas import Look, NothingToDraw, Options
from analysis.results.results import Results
from analysis.results.trials import TrialMetric, list_trial_metrics
from analysis.tables.symbols import SYMBOLS, to_mathtext
from tune_interpreg.store.store import Store
from tune_interpreg.study.fields import Scalar, format_param
from tune_interpreg.study.setting import read_params
from tune_interpreg.study.space import Range

COLUMNS = 3

#: Inches from one row of panels to the next, and between them, for a title and an axis.
ROW, GAP = 1.75, 0.72

#: Half of the width of a choice's strip, in distances between choices.
STRIP = 0.3


@dataclass(frozen=True)
class SearchedParameter:
    """A parameter that searches of some arms share, on one axis.

    choices: its values in order if it is a choice, else (). trials: arm → (value, metrics) of its done trials.
    diverged: arm → values. chosen: arm → the value that the search chose.
    """

    name: str
    is_logarithmic: bool
    choices: tuple[Scalar, ...]
    trials: dict[str, list[tuple[Scalar, dict[str, float]]]]
    diverged: dict[str, list[Scalar]]
    chosen: dict[str, Scalar]

    def has(self, metric: str) -> bool:
        """Return whether a trial has the metric."""
        return any(metric in measured for trials in self.trials.values() for _, measured in trials)

    @property
    def symbol(self) -> str:
        return SYMBOLS.get(self.name, self.name)


def searched_parameters(results: Results) -> list[SearchedParameter]:
    """Return the searched parameters in the study's order; one of several kinds of ranges has one entry per kind."""
    arms_by_axis: dict[tuple[str, str], list[str]] = {}
    for name, arm in results.study.arms.items():
        for parameter, span in arm.search.ranges.items() if arm.search else ():
            arms_by_axis.setdefault((parameter, _kind(span)), []).append(name)
    collected = [_collect(results, parameter, kind, arms) for (parameter, kind), arms in arms_by_axis.items()]
    return [parameter for parameter in collected if any(parameter.trials.values())]


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw each parameter against each metric that its trials have."""
    parameters, metrics = searched_parameters(results), list_trial_metrics(results)
    by_parameter = [[(parameter, metric) for metric in metrics if parameter.has(metric)] for parameter in parameters]
    if not any(by_parameter):
        raise NothingToDraw("no trial of a search is done yet")
    look = canvas.looks(results)
    arms = list(dict.fromkeys(arm for parameter in parameters for arm in parameter.trials))
    starts = [(panels, first) for panels in by_parameter for first in range(0, len(panels), COLUMNS)]
    rows = [panels[first : first + COLUMNS] for panels, first in starts]
    drawing, axes_RC = _grid(len(rows), -(-len(arms) // COLUMNS))
    for row, axes_C in zip(rows, axes_RC, strict=True):
        for (parameter, metric), axes in zip(row, axes_C, strict=False):
            draw_parameter(axes, parameter, metric, metrics[metric], look)
        for unused in axes_C[len(row) :]:
            unused.remove()
    shown = [look[arm] for arm in arms]
    handles = [Line2D([], [], linestyle="", label=arm.name, color=arm.colour, marker=arm.marker) for arm in shown]
    drawing.legend(handles=handles, loc="lower left", ncols=COLUMNS)
    counts = {arm: max(len(parameter.trials.get(arm, ())) for parameter in parameters) for arm in arms}
    counted = ", ".join(f"{look[arm].name} {count}" for arm, count in counts.items())
    caption = (
        f"Search trials, {canvas.describe_trials(results, arms)} ({counted}), by the value of each searched parameter."
        " Accuracies and maps are measured on validation images, losses in the last epoch; a search without attacks"
        " has losses only. Triangles: the chosen values. Ticks at the top: trials that diverged."
    )
    return drawing, caption


def _grid(rows: int, legend: int) -> tuple[Figure, Any]:
    """Return a figure of ``rows`` × ``COLUMNS`` axes above a legend of so many lines.

    Margins are fixed, because constrained layout takes seconds for this number of panels, and fails with more.
    """
    bottom = 0.6 + 0.17 * legend  # inches, as all numbers here
    height = rows * ROW + bottom
    figure = Figure(figsize=(canvas.WIDTH, height))
    edges = {"left": 0.5 / canvas.WIDTH, "right": 1 - 0.1 / canvas.WIDTH}
    edges |= {"bottom": bottom / height, "top": 1 - 0.3 / height}
    spaces = {"wspace": 0.3, "hspace": GAP / (ROW - GAP)}
    return figure, figure.subplots(rows, COLUMNS, squeeze=False, gridspec_kw=edges | spaces)


def draw_parameter(
    axes: Axes, parameter: SearchedParameter, metric: str, shown: TrialMetric, look: dict[str, Look]
) -> None:
    """Draw the trials of all arms in one panel."""
    heights: list[float] = []
    for place, (arm, trials) in enumerate(parameter.trials.items()):
        points = [(value, shown.factor * measured[metric]) for value, measured in trials if metric in measured]
        finite = [(value, height) for value, height in points if math.isfinite(height)]
        heights += [height for _, height in finite]
        style: Options = {"color": look[arm].colour, "marker": look[arm].marker, "linestyle": "", "markeredgewidth": 0}
        many = len(finite) > canvas.MANY
        xs = _places(parameter, [value for value, _ in finite], place, spread=True)
        axes.plot(xs, [y for _, y in finite], markersize=3.5, alpha=0.7, rasterized=many, **style)
        edge: Options = {"transform": axes.get_xaxis_transform(), "clip_on": False, "color": look[arm].colour}
        diverged = _places(parameter, parameter.diverged[arm], place, spread=True)
        axes.plot(diverged, np.ones(len(diverged)), "|", markersize=7, **edge)
        chosen = _places(parameter, [parameter.chosen[arm]] if arm in parameter.chosen else [], place, spread=False)
        axes.plot(chosen, np.zeros(len(chosen)), "^", markersize=6, markeredgecolor="white", zorder=3, **edge)
    axes.set_title(shown.title, fontsize=canvas.FONT - 0.5)
    axes.set_xlabel(to_mathtext(parameter.symbol), parse_math=True)
    if not metric.endswith("accuracy"):
        canvas.log_if_wide(axes, heights or [0.0])
    if parameter.choices:
        axes.set_xticks(range(len(parameter.choices)), [_format(choice) for choice in parameter.choices])
        axes.set_xlim(-0.5, len(parameter.choices) - 0.5)
        axes.grid(axis="x", visible=False)
    elif parameter.is_logarithmic:
        canvas.log_ticks(axes, "x")


def _collect(results: Results, name: str, kind: str, arms: list[str]) -> SearchedParameter:
    trials: dict[str, list[tuple[Scalar, dict[str, float]]]] = {}
    diverged: dict[str, list[Scalar]] = {}
    choices: set[Scalar] = set()
    for arm in arms:
        search = results.study.arms[arm].search
        assert search
        settled = [(read_params(trial["recipe"], [name])[name], trial) for trial in results.current.list_trials(arm)]
        trials[arm] = [(value, trial["metrics"]) for value, trial in settled if trial["state"] == "done"]
        diverged[arm] = [value for value, trial in settled if trial["state"] == "diverged"]
        choices |= set(search.ranges[name].choice or ())
    params = {arm: results.current.choices.get(arm, {}).get("params", {}) for arm in arms}
    chosen = {arm: params[arm][name] for arm in arms if name in params[arm]}
    ordered = sorted(choices, key=lambda choice: (isinstance(choice, str), choice))
    return SearchedParameter(name, kind == "log", tuple(ordered), trials, diverged, chosen)


def _kind(span: Range) -> str:
    if span.choice is not None:
        return "choice"
    return "log" if span.is_logarithmic else "linear"


def _places(parameter: SearchedParameter, values: list[Scalar], place: int, *, spread: bool) -> list[float]:
    """Return the positions of values on the axis; the arms' strips of a choice lie side by side."""
    if not parameter.choices:
        return [float(value) for value in values]
    width = 2 * STRIP / len(parameter.trials)
    center = (place + 0.5) * width - STRIP
    within = np.linspace(-0.3, 0.3, len(values)) * width if spread and len(values) > 1 else np.zeros(len(values))
    return [
        parameter.choices.index(value) + center + shift for value, shift in zip(values, within.tolist(), strict=True)
    ]


def _format(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else format_param(value)
