"""What each search chose, and how well a matched training loss was met by the repeats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from analysis import paper
from analysis.results.results import Results
from analysis.statistics.intervals import spread
from analysis.tables.accuracy import notes
from analysis.tables.cells import ABSENT, Cell, Estimate, Source, Table
from tune_interpreg.study.config import Arm, Search

SYMBOLS = {"lambda": "λ", "phi": "φ", "lambda_j": "λ_J", "lambda_g": "λ_g", "lambda_cs": "λ_cs", "lambda_gm": "λ_gm"}
LOSS = "train/loss"


def settings_table(results: Results) -> Table:
    """What each searched arm's search chose, and how well a matched training loss was met.

    Residual: this arm's training loss − the reference arm's, paired by seed.
    """
    searched = {name: arm for name, arm in results.study.arms.items() if arm.search}
    printed = paper.SETTINGS.get(results.study.data.name)
    columns = ("Arm", "Search", "Trials", "Chosen", *(["paper"] if printed else []), "Loss", "Residual", "Match")
    cells = tuple(
        (
            results.title(name),
            *_search_cells(results, name, arm),
            _chosen(results, name, arm),
            *([_paper_setting(printed, name, arm)] if printed else []),
            *_matched(results, name, arm),
        )
        for name, arm in searched.items()
    )
    references = {arm.search.match_loss_of for arm in searched.values() if arm.search}
    named = [name for name in results.study.arms if name in searched or name in references]
    note = (
        "Loss: training loss, mean over the last epoch, over the repeats' seeds; the penalty is included, except where"
        " the match says ce. Residual: the arm's loss − its reference's, paired by seed. Match: PASS where the"
        " residual's interval holds 0 and its mean lies within three tolerances (±), or in any case within one; MISSED"
        " where its interval excludes 0; else NOT SHOWN: neither that the losses are equal nor that they differ."
        " Settings are those of the repeats."
    )
    told = (*notes(results, [LOSS], named), note, *_options(searched), *_matches(results, searched))
    return Table("Settings. Chosen parameters and matched training losses", columns, cells, told)


def _chosen(results: Results, name: str, arm: Arm) -> str:
    """What was searched and the numbers that are fixed, of the arm's repeats, or of those to come after its search."""
    assert arm.search
    repeats, ended = results.current.repeats[name], results.current.choices.get(name, {}).get("params", {})
    params = repeats[-1]["recipe"]["params"] if repeats else {**arm.params, **ended} if ended else {}
    fixed = [parameter for parameter, value in arm.params.items() if not isinstance(value, str)]
    named = [parameter for parameter in (*arm.search.ranges, *fixed) if parameter in params]
    ordered = [p for p in SYMBOLS if p in named] + [p for p in named if p not in SYMBOLS]
    return ", ".join(f"{SYMBOLS.get(p, p)} {_value(params[p])}" for p in ordered) or ABSENT


def _search_cells(results: Results, name: str, arm: Arm) -> tuple[str, str]:
    assert arm.search
    search = arm.search
    matched = f"match {search.match_loss_of}" + (" (ce)" if search.loss == "ce" else "")
    goal = matched if search.match_loss_of else f"max {', '.join(search.goals)}"
    ended = [record for record in results.current.trials[name] if record["state"] != "failed"]
    return goal, f"{len(ended)} of {arm.search.trials}"


def _paper_setting(printed: Mapping[str, Mapping[str, float]], name: str, arm: Arm) -> str:
    known = printed.get(name, {}) if paper.corresponds(name, arm) else {}
    return ", ".join(f"{SYMBOLS[parameter]} {value:g}" for parameter, value in known.items()) or ABSENT


def _matched(results: Results, name: str, arm: Arm) -> tuple[Cell, Cell, Cell]:
    assert arm.search
    metric, reference = arm.search.matched, arm.search.match_loss_of
    own = results.estimate(name, metric, decimals=None)
    if reference is None:
        return own, ABSENT, ABSENT
    residual = results.compare(name, reference, metric).difference
    sources = (Source(name, metric), Source(reference, metric))
    return own, Estimate(residual, results.asked, decimals=None, sources=sources), match(results, name)


def match(results: Results, name: str) -> str:
    """Whether an arm's repeats train at their reference's loss, and the tolerance; – where no seed has both losses.

    PASS: the mean residual lies within the tolerance, or its 95% interval holds 0 and the mean lies within three
    tolerances: where the tolerance is the reference's standard error, 97% of exact matches do. MISSED: the interval
    excludes 0. NOT SHOWN: it holds 0 only because seeds are few or noisy.
    """
    search = results.study.arms[name].search
    assert search
    assert search.match_loss_of
    residual = results.compare(name, search.match_loss_of, search.matched).difference
    if residual is None:
        return ABSENT
    within = _tolerance(results, name, search)
    off, reach = abs(residual.mean), math.inf if residual.half_width is None else residual.half_width
    near = off <= (3 * within if off <= reach else within)
    return f"{'PASS' if near else 'NOT SHOWN' if off <= reach else 'MISSED'} (±{within:.2g})"


def _tolerance(results: Results, name: str, search: Search) -> float:
    """How far off a loss may be: as the search had it or, before it has ended, as it would by the losses so far."""
    losses = list(results.values(search.match_loss_of or "", search.matched).values())
    error = spread(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    chosen = results.current.choices.get(name, {}).get("tolerance")
    return float(next(one for one in (chosen, search.tolerance, error) if one is not None))


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _options(searched: Mapping[str, Arm]) -> list[str]:
    """What is fixed in words, as the norm of a penalty: a line for the arms that share it."""
    alike: dict[str, list[str]] = {}
    for name, arm in searched.items():
        fixed = [f"{parameter} {value}" for parameter, value in arm.params.items() if isinstance(value, str)]
        alike.setdefault(", ".join(fixed), []).append(name)
    return [f"{', '.join(names)}: {fixed}." for fixed, names in alike.items() if fixed]


def _matches(results: Results, searched: Iterable[str]) -> list[str]:
    """What is known of each matched strength: its 90% interval, or why nothing matches."""
    found = {name: results.current.choices[name] for name in searched if name in results.current.choices}
    lines = []
    for name, choice in found.items():
        if choice["target"] is None:
            lines += [f"{name}: {len(choice['front'])} trials on the Pareto front."] if choice["front"] else []
            continue
        parameter = choice["parameter"]
        value = choice["params"][parameter]
        strength = f"{SYMBOLS.get(parameter, parameter)} = {value:.3g}"
        interval = f"90% interval [{choice['low']:.3g}, {choice['high']:.3g}]"
        lines.append(
            f"{name}: {strength}, {interval}" + ("." if choice["feasible"] else f"; NO MATCH: {choice['reason']}.")
        )
    return lines
