"""The honesty checks of the evaluation: one row per check, one column per arm."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from analysis.results import rows
from analysis.results.results import Results
from analysis.statistics.intervals import wilson
from analysis.tables.cells import ABSENT, Cell, Table
from analysis.tables.notes import attack_note, join_counts, list_seeds, name_seeds
from tune_interpreg.store.store import Record

#: (arm, seed) → the checks of that model, each {check, state, n, said, values}.
ModelChecks = Mapping[tuple[str, int], list[Mapping[str, Any]]]

#: The check that runs AutoAttack, on images of its own number.
ENSEMBLE = "ensemble"

#: Columns of a terminal, for one line per warning.
WIDTH = 80


def honesty_table(results: Results) -> Table:
    """Return PASS, WARN or NONE per check and arm, with the numbers of seeds and of images."""
    models = collect_checks(results)
    arms = list(dict.fromkeys(arm for arm, _ in models))
    by_check: dict[str, dict[str, list[Mapping[str, Any]]]] = {}  # check → arm → the result of each model
    for (arm, _), checks in models.items():
        for check in checks:
            by_check.setdefault(check["check"], {}).setdefault(arm, []).append(check)
    lines: list[dict[str, Cell]] = []
    for name, by_arm in by_check.items():
        cells = {results.title(arm): _cell(by_arm.get(arm, []), results.seed_count) for arm in arms}
        lines.append({"Check": name, **cells})
    return Table.from_rows("Honesty checks", lines, _notes(results, models) if lines else (), "honesty")


def collect_checks(results: Results) -> ModelChecks:
    """Return (arm, seed) → checks of the models in the tables, in the study's order."""
    return {
        (arm, seed): _list_asked(record)
        for arm, by_seed in results.current.checks.items()
        for seed, record in sorted(by_seed.items())
        if record["state"] == "done"
    }


def summarize_warnings(results: Results) -> list[str]:
    """Return a line of at most 80 columns per check that does not pass: how many models, and the reason or remedy."""
    models = collect_checks(results)
    remedies: dict[str, list[str]] = {}
    for checks in models.values():
        for check in checks:
            if check["state"] != "PASS":
                state_and_name = f"{check['state']} {check['check']}"
                remedies.setdefault(state_and_name, []).append(check["said"].rpartition(": ")[2])
    lines = []
    for state_and_name, named in remedies.items():
        remedy = named[0] if len(set(named)) == 1 else "see the honesty checks"
        line = f"{state_and_name}: {len(named)} of {len(models)} models: {remedy}"
        lines.append(textwrap.shorten(line, WIDTH, placeholder=" …"))
    return lines


def _list_asked(record: Record) -> list[Mapping[str, Any]]:
    """Return the checks of a record. Records of versions before 0.2 have that by AutoAttack unasked, with NONE."""
    is_asked = record["measure"]["autoattack"] is not None
    return [check for check in record["checks"] if is_asked or check["check"] != ENSEMBLE]


def _cell(checks: list[Mapping[str, Any]], asked: int) -> str:
    if not checks:
        return ABSENT
    states = [check["state"] for check in checks]
    warned, passed = states.count("WARN"), states.count("PASS")
    if warned:
        state = f"WARN {warned} of {len(states)}"
    elif passed:
        state = "PASS" if passed >= asked else f"PASS {passed} of {asked}"
    else:
        return "NONE"
    return f"{state}, n = {_range(check['n'] for check in checks if check['state'] != 'NONE')}"


def _range(counts: Iterable[int]) -> str:
    """Return '100', or '97–100'."""
    ascending = sorted(counts)
    low, high = ascending[0], ascending[-1]
    return f"{low}" if low == high else f"{low}–{high}"


def _notes(results: Results, models: ModelChecks) -> Iterable[str]:
    yield (
        f"PASS: in the models of all {results.seed_count} seeds, or of so many of them. WARN: explained below. NONE:"
        f" there was nothing to check. {ABSENT}: no result. n: images that were checked; checks that compare attacks"
        " check the images that are correctly classified without an attack."
    )
    images, of_ensemble = set[int](), set[int]()
    for checks in models.values():
        images.add(max((check["n"] for check in checks if check["check"] != ENSEMBLE), default=0))
        of_ensemble |= {check["n"] for check in checks if check["check"] == ENSEMBLE and check["n"]}
    ensemble = f" AutoAttack: {_range(of_ensemble)} of them." if of_ensemble else ""
    yield attack_note(results, f"{join_counts(sorted(images))} validation images") + ensemble
    bounds = {n: wilson(0.5, n) for n in sorted({max(images), max(of_ensemble, default=0)}) if n}
    widths = ", ".join(f"{50 * (high - low):.2g} points for {n} images" for n, (low, high) in bounds.items())
    yield f"Half-width of Wilson's 95% interval of one model with 50% accuracy: {widths}."
    yield from _explain(models)
    if results.study.evaluation.checks:
        yield from _unchecked(results, models)


def _explain(models: ModelChecks) -> Iterable[str]:
    """Yield each warning and each check without anything to check, with all models that have the same line."""
    models_by_line: dict[str, list[tuple[str, int]]] = {}
    for model, checks in models.items():
        for check in checks:
            if check["state"] != "PASS":
                reason = "NONE, " if check["state"] == "NONE" else ""
                images = "" if reason else f" (n = {check['n']} images)"
                models_by_line.setdefault(f"{check['check']}: {reason}{check['said']}{images}", []).append(model)
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
