"""Settings that searches chose, and how well the repeats match a training loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from analysis import paper
from analysis.results.results import Results
from analysis.statistics.intervals import standard_deviation
from analysis.tables.cells import ABSENT, Cell, Estimate, MetricSource, Table
from analysis.tables.notes import mean_notes
from analysis.tables.symbols import SYMBOLS
from tune_interpreg.study.config import Arm, Search
from tune_interpreg.study.metric_names import TRAIN_LOSS


def settings_table(results: Results) -> Table:
    """Return the chosen settings of each searched arm, and its match of a training loss.

    Residual: this arm's training loss − the reference arm's, paired by seed.
    """
    searched = {name: arm for name, arm in results.study.arms.items() if arm.search}
    printed = paper.SETTINGS.get(results.study.data.name)
    columns = ("Arm", "Search", "Trials", "Chosen", *(["Paper"] if printed else []), "Loss", "Residual", "Match")
    body = []
    for name, arm in searched.items():
        row: list[Cell] = [results.title(name), *_search_cells(results, name, arm), _chosen(results, name, arm)]
        if printed:
            row.append(_paper_setting(printed, name, arm))
        body.append((*row, *_match_cells(results, name, arm)))
    references = {arm.search.match_loss_of for arm in searched.values() if arm.search}
    named = [name for name in results.study.arms if name in searched or name in references]
    note = (
        "Settings are those of the repeats. Loss: training loss with its penalty (cross-entropy only if the search says"
        " ce), mean over the last epoch and over the repeats' seeds. Residual: the arm's loss − its reference's, paired"
        " by seed. Match: PASS if the mean residual is within the tolerance (±), or within three tolerances and the"
        " residual's interval contains 0; MISSED if the interval excludes 0; otherwise NOT SHOWN, neither equal nor"
        " different."
    )
    notes = [*mean_notes(results, [TRAIN_LOSS], named), note, *_option_notes(searched)]
    notes += _strength_notes(results, searched)
    return Table("Chosen settings and matched training losses", columns, tuple(body), tuple(notes), section="settings")


def judge_match(results: Results, name: str) -> str:
    """Return if an arm's repeats have their reference's training loss, and the tolerance; – without common seeds.

    PASS: the mean residual is within the tolerance, or its 95% interval contains 0 and the mean is within three
    tolerances. If the tolerance is the reference's standard error, 97% of exact matches pass. MISSED: the interval
    excludes 0. NOT SHOWN: the interval contains 0 only because seeds are few or noisy.
    """
    search = results.study.arms[name].search
    assert search
    assert search.match_loss_of
    residual = results.compare(name, search.match_loss_of, search.matched_metric).difference
    if residual is None:
        return ABSENT
    tolerance = _tolerance(results, name, search)
    distance = abs(residual.mean)
    contains_0 = residual.half_width is None or distance <= residual.half_width
    if distance <= (3 * tolerance if contains_0 else tolerance):
        verdict = "PASS"
    else:
        verdict = "NOT SHOWN" if contains_0 else "MISSED"
    return f"{verdict} (±{tolerance:.2g})"


def _tolerance(results: Results, name: str, search: Search) -> float:
    """Return the tolerance that the search used or, before it has ended, would use with the losses so far."""
    chosen = results.current.choices.get(name, {}).get("tolerance")
    if chosen is not None:
        return float(chosen)
    if search.tolerance is not None:
        return search.tolerance
    losses = list(results.values(search.match_loss_of or "", search.matched_metric).values())
    return standard_deviation(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0


def _search_cells(results: Results, name: str, arm: Arm) -> tuple[str, str]:
    search = arm.search
    assert search
    if search.match_loss_of:
        goal = f"match {search.match_loss_of}" + (" (ce)" if search.loss == "ce" else "")
    else:
        goal = f"max {', '.join(search.goals)}"
    ended = [record for record in results.current.trials[name] if record["state"] != "failed"]
    return goal, f"{len(ended)} of {search.trials}"


def _chosen(results: Results, name: str, arm: Arm) -> str:
    """Return the searched parameters and the fixed numbers, of the repeats or else of the finished search."""
    assert arm.search
    repeats, choice = results.current.repeats[name], results.current.choices.get(name, {}).get("params", {})
    params: Mapping[str, Any] = {**arm.params, **choice} if choice else {}
    if repeats:
        params = repeats[-1]["recipe"]["params"]
    fixed = [parameter for parameter, value in arm.params.items() if not isinstance(value, str)]
    named = [parameter for parameter in (*arm.search.ranges, *fixed) if parameter in params]
    ordered = [p for p in SYMBOLS if p in named] + [p for p in named if p not in SYMBOLS]
    return ", ".join(f"{SYMBOLS.get(p, p)} {_format_value(params[p])}" for p in ordered) or ABSENT


def _paper_setting(printed: Mapping[str, Mapping[str, float]], name: str, arm: Arm) -> str:
    setting = printed.get(name, {}) if paper.corresponds(name, arm) else {}
    return ", ".join(f"{SYMBOLS[parameter]} {value:g}" for parameter, value in setting.items()) or ABSENT


def _match_cells(results: Results, name: str, arm: Arm) -> tuple[Cell, Cell, Cell]:
    """Return the cells Loss, Residual and Match."""
    assert arm.search
    metric, reference = arm.search.matched_metric, arm.search.match_loss_of
    loss = results.estimate(name, metric, decimals=None)
    if reference is None:
        return loss, ABSENT, ABSENT
    residual = results.compare(name, reference, metric).difference
    sources = (MetricSource(name, metric), MetricSource(reference, metric))
    return loss, Estimate(residual, results.seed_count, decimals=None, sources=sources), judge_match(results, name)


def _format_value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _option_notes(searched: Mapping[str, Arm]) -> list[str]:
    """Return the options in words, such as the norm of a penalty: one line for all arms with the same options."""
    names_by_options: dict[str, list[str]] = {}
    for name, arm in searched.items():
        options = [f"{parameter} {value}" for parameter, value in arm.params.items() if isinstance(value, str)]
        names_by_options.setdefault(", ".join(options), []).append(name)
    return [f"{', '.join(names)}: {options}." for options, names in names_by_options.items() if options]


def _strength_notes(results: Results, searched: Iterable[str]) -> list[str]:
    """Return each matched strength with its 90% interval, or why nothing matches; and sizes of Pareto fronts."""
    notes = []
    for name in searched:
        choice = results.current.choices.get(name)
        if choice is None:
            continue
        if choice["target"] is None:
            if choice["front"]:
                notes.append(f"{name}: {len(choice['front'])} trials on the Pareto front.")
            continue
        parameter = choice["parameter"]
        strength = f"{SYMBOLS.get(parameter, parameter)} = {choice['params'][parameter]:.3g}"
        interval = f"90% interval [{choice['low']:.3g}, {choice['high']:.3g}]"
        failure = "" if choice["feasible"] else f"; NO MATCH: {choice['reason']}"
        notes.append(f"{name}: {strength}, {interval}{failure}.")
    return notes
