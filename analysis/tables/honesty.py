"""The honesty checks of the evaluation: one row per check, one column per arm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from analysis.results import rows
from analysis.results.results import Results
from analysis.statistics.intervals import wilson
from analysis.tables.cells import ABSENT, Table
from analysis.tables.notes import attack_note, join_counts, name_seeds

#: Seed → the checks of that seed's model, each {check, state, n, said, values}.
SeedChecks = Mapping[int, list[Mapping[str, Any]]]

#: The check that runs AutoAttack, on images of its own number.
ENSEMBLE = "ensemble"


def honesty_table(results: Results) -> Table:
    """Return PASS or WARN per check and arm, with the number of checked seeds that warn."""
    by_arm = collect_checks(results)
    columns = ("Check", *(results.title(arm) for arm in by_arm))
    names = dict.fromkeys(check["check"] for _, _, check in _each(by_arm))
    body = tuple((name, *(_cell(seeds, name, results.seed_count) for seeds in by_arm.values())) for name in names)
    notes = tuple(_notes(results, by_arm)) if body else ()
    return Table("Honesty checks", columns, body, notes, section="honesty")


def collect_checks(results: Results) -> dict[str, SeedChecks]:
    """Return arm → seed → checks of the models in the tables; arms without any are left out.

    If a seed was checked twice, the later record counts.
    """
    by_arm: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for arm, group in results.current.checks.items():
        for record in group:
            if record["state"] != "done":
                continue
            for seed, checks in record["checks"].items():
                if int(seed) in results.study.seeds:
                    by_arm.setdefault(arm, {})[int(seed)] = list(checks)
    return dict(by_arm)


def summarize_warnings(results: Results) -> list[str]:
    """Return one line per check that warns: the number of models, their arms, and the remedy."""
    by_arm = collect_checks(results)
    models = sum(map(len, by_arm.values()))
    warnings: dict[str, list[tuple[str, str]]] = {}
    for arm, _, check in _each(by_arm):
        if check["n"] and check["state"] != "PASS":
            warnings.setdefault(check["check"], []).append((arm, check["said"].rpartition(": ")[2]))
    lines = []
    for name, warned in warnings.items():
        arms, remedies = dict.fromkeys(arm for arm, _ in warned), {remedy for _, remedy in warned}
        remedy = remedies.pop() if len(remedies) == 1 else "see the honesty checks"
        lines.append(f"WARN {name}: {len(warned)} of {models} models ({', '.join(arms)}): {remedy}")
    return lines


def _each(by_arm: Mapping[str, SeedChecks]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Yield (arm, seed, check) for every check, seeds in order."""
    for arm, seeds in by_arm.items():
        for seed in sorted(seeds):
            for check in seeds[seed]:
                yield arm, seed, check


def _cell(seeds: SeedChecks, name: str, asked: int) -> str:
    states = [check["state"] for checks in seeds.values() for check in checks if check["check"] == name and check["n"]]
    warned = len(states) - states.count("PASS")
    if warned:
        return f"WARN {warned} of {len(states)}"
    if not states:
        return ABSENT
    return "PASS" if len(states) >= asked else f"PASS (n={len(states)})"


def _notes(results: Results, by_arm: Mapping[str, SeedChecks]) -> Iterable[str]:
    yield (
        f"PASS: in all {results.seed_count} seeds' models, or in (n=…) of them. WARN: explained below. {ABSENT}: did"
        " not run."
    )
    counts = {(check["check"] == ENSEMBLE, int(check["n"])) for _, _, check in _each(by_arm) if check["n"]}
    images = sorted(n for is_ensemble, n in counts if not is_ensemble)
    of_ensemble = sorted(n for is_ensemble, n in counts if is_ensemble)
    ensemble = f" AutoAttack: {join_counts(of_ensemble)} of them." if of_ensemble else ""
    yield attack_note(results, f"{join_counts(images)} validation images") + ensemble
    widths = ", ".join(f"{50 * _width(n):.2g} points for {n} images" for n in sorted({*images, *of_ensemble}))
    yield f"Half-width of Wilson's 95% interval of one model with 50% accuracy: {widths}."
    yield from _explain(by_arm)
    yield from _unchecked(results, by_arm)


def _explain(by_arm: Mapping[str, SeedChecks]) -> Iterable[str]:
    """Yield each warning and each check that did not run, with all models that have the same line."""
    models_by_line: dict[str, dict[str, list[int]]] = {}
    for arm, seed, check in _each(by_arm):
        if check["state"] != "PASS" or not check["n"]:
            images = f" (n = {check['n']} images)" if check["n"] else ", did not run"
            line = f"{check['check']}: {check['said']}{images}"
            models_by_line.setdefault(line, {}).setdefault(arm, []).append(seed)
    every_model = {arm: sorted(seeds) for arm, seeds in by_arm.items()}
    for line, models in models_by_line.items():
        named = "; ".join(f"{arm}, {name_seeds(seeds)}" for arm, seeds in models.items())
        yield f"{'all checked models' if models == every_model else named}: {line}."


def _unchecked(results: Results, by_arm: Mapping[str, SeedChecks]) -> Iterable[str]:
    """Return the models in the tables without checks, and why, if the study asks for checks."""
    if not results.study.checks:
        return []
    reasons: dict[tuple[str, str], list[int]] = {}
    for arm, repeats in results.current.repeats.items():
        for seed in rows.finished_repeats(repeats, results.study.seeds):
            if seed not in by_arm.get(arm, {}):
                reasons.setdefault((arm, _reason(results.current.checks[arm], seed)), []).append(seed)
    return [f"{arm}: {name_seeds(seeds)} not checked{reason}." for (arm, reason), seeds in reasons.items()]


def _reason(records: Iterable[Mapping[str, Any]], seed: int) -> str:
    ended = [record for record in records if seed in record["seeds"]]
    if not ended:
        return " yet"
    error = rows.first_line(ended[-1].get("error"))
    return f", {ended[-1]['state']}" + (f": {error}" if error else "")


def _width(images: int) -> float:
    low, high = wilson(0.5, images)
    return high - low
