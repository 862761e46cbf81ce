"""Settings that searches chose, and how well the repeats match a training loss."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from analysis import paper
from analysis.results.results import Results
from analysis.statistics.intervals import standard_deviation
from analysis.tables.cells import ABSENT, Cell, Table
from analysis.tables.notes import mean_notes
from analysis.tables.symbols import SYMBOLS
from tune_interpreg.study.config import Search
from tune_interpreg.study.fields import format_param
from tune_interpreg.study.metric_names import TRAIN_CE, TRAIN_LOSS
from tune_interpreg.study.setting import read_params

TRAINING_LOSS = "training loss"


def settings_table(results: Results) -> Table:
    """Return the chosen settings of each searched arm, and its match of another arm's metric.

    Residual: this arm's metric − the reference arm's, paired by seed.
    """
    searches = {name: arm.search for name, arm in results.study.arms.items() if arm.search}
    printed = paper.SETTINGS.get(results.study.data.name)
    rows: list[dict[str, Cell]] = []
    for name, search in searches.items():
        metric, reference = search.matched_metric, search.matching.arm if search.matching else None
        ended = [record for record in results.current.list_trials(name) if record["state"] != "failed"]
        row: dict[str, Cell] = {"Arm": results.title(name), "Search": _goal(search)}
        row |= {"Trials": f"{len(ended)} of {search.trials}", "Chosen": _chosen(results, name, search)}
        if printed:
            values = printed.get(name, {}) if paper.corresponds(name, results.study.arms[name]) else {}
            row["Paper"] = ", ".join(f"{SYMBOLS[key]} {value:g}" for key, value in values.items()) or ABSENT
        loss = TRAIN_LOSS if search.matching and search.matching.is_judged else metric
        row |= {"Loss": results.estimate(name, loss, decimals=None), "Residual": ABSENT, "Match": ABSENT}
        if reference:
            residual = results.compare(name, reference, metric).difference
            row["Residual"] = results.cell(residual, (name, reference), metric, scale=1)
            row["Match"] = judge_match(results, name)
        rows.append(row)
    references = {search.matching.arm for search in searches.values() if search.matching}
    named = [name for name in results.study.arms if name in searches or name in references]
    note = (
        "Settings are those of the repeats. Loss: training loss with its penalty (cross-entropy only if the search says"
        " ce), mean over the last epoch and over the repeats' seeds. Residual: the arm's loss, or the metric in"
        " brackets, − its reference's, paired by seed. Match: PASS if the mean residual is within the tolerance (±), or"
        " within three tolerances and the residual's interval contains 0; MISSED if the interval excludes 0; otherwise"
        " NOT SHOWN, neither equal nor different."
    )
    notes = [*mean_notes(results, [TRAIN_LOSS], named), note]
    notes += [*_option_notes(results, searches), *_fidelity_notes(results, searches)]
    notes += _strength_notes(results, searches)
    return Table.from_rows("Chosen settings and matched training losses", rows, notes, "settings")


def name_matched(metric: str) -> str:
    """Return the words for a matched metric: "training loss", also of the cross-entropy, or the metric's name."""
    return TRAINING_LOSS if metric in (TRAIN_LOSS, TRAIN_CE) else metric


def judge_match(results: Results, name: str) -> str:
    """Return if an arm's repeats have their reference's metric, and the tolerance; – without common seeds.

    PASS: the mean residual is within the tolerance, or its 95% interval contains 0 and the mean is within three
    tolerances. If the tolerance is the reference's standard error, 97% of exact matches pass. MISSED: the interval
    excludes 0. NOT SHOWN: the interval contains 0 only because seeds are few or noisy.
    """
    search = results.study.arms[name].search
    assert search
    assert search.matching
    residual = results.compare(name, search.matching.arm, search.matched_metric).difference
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
    reference = search.matching.arm if search.matching else ""
    losses = list(results.values(reference, search.matched_metric).values())
    return standard_deviation(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0


def _goal(search: Search) -> str:
    if search.matching:
        metric = search.matched_metric.removeprefix("train/")
        return f"match {search.matching.arm}" + ("" if metric == "loss" else f" ({metric})")
    return f"max {search.maximize}"


def _chosen(results: Results, name: str, search: Search) -> str:
    """Return the searched parameters and the fixed numbers, of the repeats or else of the finished search."""
    fixed = results.study.arms[name].params
    repeats, choice = results.current.repeats[name], results.current.choices.get(name, {}).get("params", {})
    params: Mapping[str, Any] = {**fixed, **choice} if choice else {}
    for repeat in repeats.values():
        params = {**repeat["recipe"]["params"], **read_params(repeat["recipe"], search.ranges)}
    numbers = [parameter for parameter, value in fixed.items() if not isinstance(value, str)]
    shown = [parameter for parameter in (*search.ranges, *numbers) if parameter in params]
    ordered = [p for p in SYMBOLS if p in shown] + [p for p in shown if p not in SYMBOLS]
    return ", ".join(f"{SYMBOLS.get(p, p)} {format_param(params[p])}" for p in ordered) or ABSENT


def _option_notes(results: Results, searched: Iterable[str]) -> list[str]:
    """Return the options in words, such as the norm of a penalty: one line for all arms with the same options."""
    names_by_options: dict[str, list[str]] = {}
    for name in searched:
        params = results.study.arms[name].params
        options = [f"{parameter} {value}" for parameter, value in params.items() if isinstance(value, str)]
        names_by_options.setdefault(", ".join(options), []).append(name)
    return [f"{', '.join(names)}: {options}." for options, names in names_by_options.items() if options]


def _fidelity_notes(results: Results, searches: Mapping[str, Search]) -> list[str]:
    """Return a note on each search with trials that train less than the repeats."""
    notes = []
    for name, search in searches.items():
        reduced = ", ".join(f"{key} {value}" for key, value in search.fidelity.items())
        if reduced:
            rule = "The metrics of its trials are not those of its repeats."
            bounds = " The bounds of where are of whole trainings." if search.where else ""
            notes.append(f"{results.title(name)}: trials at lower fidelity, with {reduced}. {rule}{bounds}")
    return notes


def _strength_notes(results: Results, searched: Iterable[str]) -> list[str]:
    """Return each matched strength with its 90% interval, or why nothing matches; and the bounds of ``where``."""
    notes = []
    for name in searched:
        choice = results.current.choices.get(name)
        if choice and choice["target"] is not None:
            parameter = choice["parameter"]
            strength = f"{SYMBOLS.get(parameter, parameter)} = {choice['params'][parameter]:.3g}"
            interval = f"90% interval [{choice['low']:.3g}, {choice['high']:.3g}]"
            failure = "" if choice["feasible"] else f"; NO MATCH: {choice['reason']}"
            notes.append(f"{name}: {strength}, {interval}{failure}.")
        elif choice and choice.get("least"):
            least = ", ".join(f"{metric} ≥ {value:.4f}" for metric, value in choice["least"].items())
            failure = "" if choice["feasible"] else f"; NOT SATISFIED: {choice['reason']}"
            notes.append(f"{name}: chosen among trials with {least}{failure}.")
    return notes
