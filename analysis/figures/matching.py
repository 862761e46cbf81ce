"""Training loss, or another metric, by strength for each search that matches it: trials, target and match."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import canvas
from analysis.figures.canvas import Look, NothingToDraw, Options
from analysis.results.results import Results
from analysis.tables.settings import TRAINING_LOSS, name_matched
from analysis.tables.symbols import SYMBOLS, to_mathtext
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Search
from tune_interpreg.study.setting import read_params

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class MatchingSearch:
    """A search that matches a metric. Points are (strength, metric).

    metric: in words. reference: the arm with the target. trials: those with the chosen values of the other parameters;
    other_trials: the rest. diverged: strengths. target, error: mean and standard error of the reference's n repeats.
    match, interval: the matched point and the 90% interval of its strength, if the search has ended.
    reason: why nothing matches.
    """

    arm: str
    symbol: str
    metric: str
    reference: str
    trials: Points
    other_trials: Points
    diverged: list[float]
    target: float
    error: float
    n: int
    match: tuple[float, float] | None
    interval: tuple[float, float]
    reason: str | None
    repeats: Points


def matching_searches(results: Results) -> list[MatchingSearch]:
    """Return every search that matches a metric, has a target, and has a finished trial."""
    searches = {name: arm.search for name, arm in results.study.arms.items() if arm.search}
    collected = (_collect(results, name, search) for name, search in searches.items() if search.matching)
    return [search for search in collected if search]


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw one panel per search."""
    searches = matching_searches(results)
    if not searches:
        raise NothingToDraw("no search has matched a metric yet")
    look = canvas.looks(results)
    drawing, axes = canvas.panels(len(searches), height=2.55)
    for search, panel in zip(searches, axes, strict=True):
        draw_search(panel, search, look[search.arm], look[search.reference].name)
        panel.set_title(look[search.arm].name)
    seeds = canvas.describe_trials(results, [search.arm for search in searches])
    shown = dict.fromkeys(search.metric for search in searches)
    names = " or ".join(f"{name} (mean over the last epoch)" if name == TRAINING_LOSS else name for name in shown)
    n_by_arm = {search.reference: search.n for search in searches}
    caption = (
        f"{names[0].upper()}{names[1:]} of every search trial, {seeds}, by strength. Dashed: the value"
        f" to match, the mean over {canvas.describe_n(n_by_arm, results)} of the reference, in a band of its standard"
        " error. Cross: the matched strength, with its 90% interval. Rings: the repeats at their strength. Paler:"
        " trials with other parameters than the chosen ones. Ticks at the top: trials that diverged."
    )
    return drawing, caption


def draw_search(axes: Axes, search: MatchingSearch, look: Look, reference: str) -> None:
    """Draw one search and its target, named after ``reference``."""
    many = len(search.trials) + len(search.other_trials) > canvas.MANY
    dots: Options = {"color": look.colour, "markersize": 4.5, "markeredgewidth": 0, "rasterized": many}
    axes.plot(*_columns(search.other_trials), "o", alpha=0.25, **dots)
    axes.plot(*_columns(search.trials), "o", alpha=0.85, **dots)
    rings: Options = {"markerfacecolor": "none", "markersize": 8, "markeredgewidth": 0.9}
    axes.plot(*_columns(search.repeats), "o", color=look.colour, **rings)
    ticks: Options = {"markersize": 9, "markeredgewidth": 1.2, "clip_on": False, "color": canvas.INK}
    for strength in search.diverged:
        axes.plot(strength, 1.0, "|", transform=axes.get_xaxis_transform(), **ticks)
    low, high = search.target - search.error, search.target + search.error
    axes.axhspan(low, high, color=canvas.MUTED, alpha=0.25, linewidth=0)
    axes.axhline(search.target, **canvas.DASHED)
    spot: Options = {"xycoords": ("axes fraction", "data"), "va": "top", "ha": "right"}
    name = canvas.annotate(
        axes,
        f"{'loss' if search.metric == TRAINING_LOSS else search.metric} of {reference}",
        (0.99, search.target),
        (0, -4),
        **spot,
    )
    name.set_in_layout(False)
    if search.match:
        low, high = search.match[0] - search.interval[0], search.interval[1] - search.match[0]
        cross: Options = {"markersize": 7, "markeredgewidth": 1.8, "elinewidth": 1.6, "capsize": 3}
        axes.errorbar(*search.match, xerr=[[low], [high]], fmt="x", color=canvas.INK, **cross)
    if search.reason:
        bold: Options = {"ha": "right", "fontweight": "bold", "color": canvas.INK}
        canvas.annotate(axes, "no match", (0.99, 0.02), (0, 0), xycoords="axes fraction", **bold)
    canvas.log_if_wide(axes, [loss for _, loss in search.trials + search.other_trials + search.repeats])
    canvas.log_ticks(axes, "x")
    axes.set_ylabel(search.metric)
    axes.set_xlabel(to_mathtext(search.symbol), parse_math=True)


def _collect(results: Results, arm: str, search: Search) -> MatchingSearch | None:
    choice, reference = results.current.choices.get(arm, {}), search.matching.arm if search.matching else ""
    losses = list(results.values(reference, search.matched_metric).values())
    target = choice.get("target") or (statistics.fmean(losses) if losses else None)
    records = results.current.list_trials(arm)
    trials, other_trials = _trials(records, search, choice.get("params", {}))
    if target is None or not trials + other_trials:
        return None
    matched = choice.get("parameter") == search.strength_name
    return MatchingSearch(
        arm,
        SYMBOLS.get(search.strength_name, search.strength_name),
        name_matched(search.matched_metric),
        reference,
        trials=trials,
        other_trials=other_trials,
        diverged=[_strength(record, search) for record in records if record["state"] == "diverged"],
        target=target,
        error=statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0,
        n=len(losses),
        match=(choice["params"][search.strength_name], target + choice["expected_residual"]) if matched else None,
        interval=(choice["low"], choice["high"]) if matched else (math.nan, math.nan),
        reason=choice.get("reason"),
        repeats=_repeats(results, arm, search),
    )


def _trials(records: list[Record], search: Search, chosen: Mapping[str, Any]) -> tuple[Points, Points]:
    """Return the points of finished trials: those with the other parameters as chosen, and the rest."""
    others = {name: value for name, value in chosen.items() if name != search.strength_name}
    as_chosen: Points = []
    rest: Points = []
    for record in records:
        loss = record["metrics"].get(search.matched_metric) if record["state"] == "done" else None
        if loss is not None:
            params = read_params(record["recipe"], search.ranges)
            points = as_chosen if all(params[name] == value for name, value in others.items()) else rest
            points.append((_strength(record, search), loss))
    return as_chosen, rest


def _repeats(results: Results, arm: str, search: Search) -> Points:
    done = results.current.finished_repeats(arm).values()
    return [(_strength(repeat, search), repeat["metrics"][search.matched_metric]) for repeat in done]


def _strength(record: Record, search: Search) -> float:
    return float(read_params(record["recipe"], [search.strength_name])[search.strength_name])


def _columns(points: Points) -> Any:
    return np.reshape(points, (-1, 2)).T
