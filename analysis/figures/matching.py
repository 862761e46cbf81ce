"""Strength against training loss of each search that matched a loss: its trials, the target and the match."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.canvas import (
    FONT,
    INK,
    MANY,
    MUTED,
    Ink,
    Look,
    NothingToDraw,
    counted,
    log_ticks,
    looks,
    panels,
    titles,
)
from analysis.results.current import Record
from analysis.results.results import Results
from analysis.tables.settings import SYMBOLS
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study import config

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Search:
    """What a search that matches a loss has seen; points are (strength, training loss).

    reference: the arm whose loss is the target. beside: trials of other choices beside the strength.
    diverged: strengths without a loss. target, error: the mean of the reference's repeats, and its standard error; n:
    how many there are.
    match, interval: the matched point and the 90% interval of its strength, or None while the search goes on.
    reason: why nothing matches. repeats: points of the arm's finished repeats.
    """

    arm: str
    symbol: str
    reference: str
    trials: Points
    beside: Points
    diverged: list[float]
    target: float
    error: float
    n: int
    match: tuple[float, float] | None
    interval: tuple[float, float]
    reason: str | None
    repeats: Points


def searches(results: Results) -> list[Search]:
    """Every search of the study that matches a loss whose target is known and that has a finished trial."""
    made = [_search(results, arm) for arm, one in results.study.arms.items() if one.search and one.search.match_loss_of]
    return [one for one in made if one]


def figure(results: Results, store: Store) -> tuple[Figure, str]:
    """One panel a search."""
    found = searches(results)
    if not found:
        raise NothingToDraw("no search has matched a training loss yet")
    look, named = looks(results.study), titles(results)
    drawing, axes = panels(len(found), height=2.55)
    for one, place in zip(found, axes, strict=True):
        draw_search(place, one, look[one.arm], named[one.reference])
        place.set_title(named[one.arm])
    of = {one.reference: one.n for one in found}
    caption = (
        "Training loss (mean over the last epoch) of every search trial, one seed each, by strength. Dashed: the loss"
        f" to match, the mean over {counted(of, results)} of the reference, in a band of its standard error. Cross:"
        " the matched strength, with its 90% interval. Rings: the repeats at the strength they used. Paler: trials of"
        " choices that were not taken. Ticks at the top: trials that diverged."
    )
    return drawing, caption


def draw_search(axes: Axes, one: Search, look: Look, reference: str) -> Axes:
    """One search, and the name of its reference; returns the axes."""
    _draw_trials(axes, one, look)
    _draw_target(axes, one, reference)
    if one.match:
        span: Ink = {"xerr": [[one.match[0] - one.interval[0]], [one.interval[1] - one.match[0]]], "capsize": 3}
        axes.errorbar(*one.match, fmt="x", color=INK, markersize=7, markeredgewidth=1.8, elinewidth=1.6, **span)
    if one.reason:
        axes.text(0.99, 0.02, "no match", transform=axes.transAxes, ha="right", fontweight="bold", fontsize=FONT - 1)
    losses = [loss for _, loss in one.trials + one.beside + one.repeats]
    if min(losses) > 0 and max(losses) / min(losses) > 8:
        log_ticks(axes, "y")
    log_ticks(axes, "x")
    axes.set(xlabel=one.symbol, ylabel="training loss")
    return axes


def _draw_trials(axes: Axes, one: Search, look: Look) -> None:
    many = len(one.trials) + len(one.beside) > MANY
    dots: Ink = {"color": look.colour, "markersize": 4.5, "markeredgewidth": 0, "rasterized": many}
    axes.plot(*_columns(one.beside), "o", alpha=0.25, **dots)
    axes.plot(*_columns(one.trials), "o", alpha=0.85, **dots)
    rings: Ink = {"markerfacecolor": "none", "markersize": 8, "markeredgewidth": 0.9}
    axes.plot(*_columns(one.repeats), "o", color=look.colour, **rings)
    if one.diverged:
        top: Ink = {"transform": axes.get_xaxis_transform(), "markersize": 9, "markeredgewidth": 1.2, "clip_on": False}
        axes.plot(one.diverged, [1.0] * len(one.diverged), "|", color=INK, **top)


def _draw_target(axes: Axes, one: Search, reference: str) -> None:
    axes.axhspan(one.target - one.error, one.target + one.error, color=MUTED, alpha=0.25, linewidth=0)
    axes.axhline(one.target, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    spot: Ink = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "top", "ha": "right"}
    name = axes.annotate(f"loss of {reference}", (0.99, one.target), (0, -4), fontsize=FONT - 1, color=MUTED, **spot)
    name.set_in_layout(False)


def _search(results: Results, arm: str) -> Search | None:
    search = results.study.arms[arm].search
    assert search
    assert search.match_loss_of
    choice = results.current.choices.get(arm, {})
    losses = list(results.values(search.match_loss_of, search.matched).values())
    target = choice.get("target") or (statistics.fmean(losses) if losses else None)
    tried = results.current.trials[arm]
    taken, beside = _trials(tried, search, choice.get("params", {}))
    if target is None or not taken + beside:
        return None
    matched = choice.get("parameter") == search.strength
    return Search(
        arm,
        SYMBOLS.get(search.strength, search.strength),
        search.match_loss_of,
        trials=taken,
        beside=beside,
        diverged=[_strength(record, search) for record in tried if record["state"] == "diverged"],
        target=target,
        error=statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0,
        n=len(losses),
        match=(choice["params"][search.strength], target + choice["expected_residual"]) if matched else None,
        interval=(choice["low"], choice["high"]) if matched else (math.nan, math.nan),
        reason=choice.get("reason"),
        repeats=_repeats(results, arm, search),
    )


def _trials(tried: list[Record], search: config.Search, chosen: Mapping[str, Any]) -> tuple[Points, Points]:
    """The finished trials with a loss: those made with the other parameters chosen, and the rest."""
    known = [(r, loss) for r in tried if r["state"] == "done" and (loss := ledger.mean(r, search.matched)) is not None]
    fixed = {name: value for name, value in chosen.items() if name != search.strength}
    points: tuple[Points, Points] = ([], [])
    for record, loss in known:
        other = any(record["recipe"]["params"][name] != value for name, value in fixed.items())
        points[other].append((_strength(record, search), loss))
    return points


def _repeats(results: Results, arm: str, search: config.Search) -> Points:
    done = [record for record in results.current.repeats[arm] if record["state"] == "done"]
    losses = results.values(arm, search.matched).values()
    return [(_strength(done[-1], search), loss) for loss in losses] if done else []


def _strength(record: Record, search: config.Search) -> float:
    return float(record["recipe"]["params"][search.strength])


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
