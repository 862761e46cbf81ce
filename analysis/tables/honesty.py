"""The honesty checks of the evaluation: one row per check, one column per arm."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from analysis.results import rows
from analysis.results.results import Results
from analysis.statistics.intervals import wilson
from analysis.tables.cells import ABSENT, Cell, Table
from analysis.tables.notes import attack_note, join_counts, list_seeds, name_seeds

#: (arm, seed) → the checks of that model, each {check, state, n, said, values}.
ModelChecks = Mapping[tuple[str, int], list[Mapping[str, Any]]]

#: The check that runs AutoAttack, on images of its own number.
ENSEMBLE = "ensemble"

#: Columns of a terminal, for one line per warning.
WIDTH = 80


def honesty_table(results: Results) -> Table:
    """Return PASS or WARN per check and arm, with the number of checked seeds that warn."""
    models = collect_checks(results)
    arms = list(dict.fromkeys(arm for arm, _ in models))
    states: dict[str, dict[str, list[str]]] = {}  # check → arm → the state of each model
    for (arm, _), checks in models.items():
        for check in checks:
            by_arm = states.setdefault(check["check"], {})
            if check["n"]:
                by_arm.setdefault(arm, []).append(check["state"])
    lines: list[dict[str, Cell]] = []
    for name, by_arm in states.items():
        cells = {results.title(arm): _cell(by_arm.get(arm, []), results.seed_count) for arm in arms}
        lines.append({"Check": name, **cells})
    return Table.from_rows("Honesty checks", lines, _notes(results, models) if lines else (), "honesty")


def collect_checks(results: Results) -> ModelChecks:
    """Return (arm, seed) → checks of the models in the tables, in the study's order."""
    return {
        (arm, seed): list(record["checks"])
        for arm, by_seed in results.current.checks.items()
        for seed, record in sorted(by_seed.items())
        if record["state"] == "done"
    }


def summarize_warnings(results: Results) -> list[str]:
    """Return one line of at most 80 columns per check that warns: the number of models, and the remedy."""
    models = collect_checks(results)
    remedies: dict[str, list[str]] = {}
    for checks in models.values():
        for check in checks:
            if check["n"] and check["state"] != "PASS":
                remedies.setdefault(check["check"], []).append(check["said"].rpartition(": ")[2])
    lines = []
    for name, named in remedies.items():
        remedy = named[0] if len(set(named)) == 1 else "see the honesty checks"
        line = f"WARN {name}: {len(named)} of {len(models)} models: {remedy}"
        lines.append(textwrap.shorten(line, WIDTH, placeholder=" …"))
    return lines


def _cell(states: list[str], asked: int) -> str:
    warned = len(states) - states.count("PASS")
    if warned:
        return f"WARN {warned} of {len(states)}"
    if not states:
        return ABSENT
    return "PASS" if len(states) >= asked else f"PASS (n={len(states)})"


def _notes(results: Results, models: ModelChecks) -> Iterable[str]:
    yield (
        f"PASS: in all {results.seed_count} seeds' models, or in (n=…) of them. WARN: explained below. {ABSENT}: did"
        " not run."
    )
    counts = {(check["check"] == ENSEMBLE, int(check["n"])) for checks in models.values() for check in checks}
    images = sorted(n for is_ensemble, n in counts if n and not is_ensemble)
    of_ensemble = sorted(n for is_ensemble, n in counts if n and is_ensemble)
    ensemble = f" AutoAttack: {join_counts(of_ensemble)} of them." if of_ensemble else ""
    yield attack_note(results, f"{join_counts(images)} validation images") + ensemble
    bounds = {n: wilson(0.5, n) for n in sorted({*images, *of_ensemble})}
    widths = ", ".join(f"{50 * (high - low):.2g} points for {n} images" for n, (low, high) in bounds.items())
    yield f"Half-width of Wilson's 95% interval of one model with 50% accuracy: {widths}."
    yield from _explain(models)
    if results.study.evaluation.checks:
        yield from _unchecked(results, models)


def _explain(models: ModelChecks) -> Iterable[str]:
    """Yield each warning and each check that did not run, with all models that have the same line."""
    models_by_line: dict[str, list[tuple[str, int]]] = {}
    for model, checks in models.items():
        for check in checks:
            if check["state"] != "PASS" or not check["n"]:
                images = f" (n = {check['n']} images)" if check["n"] else ", did not run"
                models_by_line.setdefault(f"{check['check']}: {check['said']}{images}", []).append(model)
    for line, of_line in models_by_line.items():
        seeds: dict[str, list[int]] = {}
        for arm, seed in of_line:
            seeds.setdefault(arm, []).append(seed)
        named = "; ".join(f"{arm}, {name_seeds(of_arm)}" for arm, of_arm in seeds.items())
        yield f"{'all checked models' if len(of_line) == len(models) else named}: {line}."


def _unchecked(results: Results, models: ModelChecks) -> Iterable[str]:
    """Return the models in the tables without checks, and why."""
    reasons = []
    for arm in results.study.arms:
        for seed in results.current.finished_repeats(arm):
            if (arm, seed) not in models:
                ended = results.current.checks[arm].get(seed)
                error = rows.first_line(ended["error"]) if ended else None
                reason = f"not checked, {ended['state']}" if ended else "not checked yet"
                reasons.append((arm, seed, reason + (f": {error}" if error else "")))
    return list_seeds(reasons)
