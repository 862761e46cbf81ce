"""The honesty checks of the evaluation, one row a check, one column an arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.results import rows
from analysis.results.results import Results
from analysis.statistics.intervals import wilson
from analysis.tables.accuracy import attack_said, listed
from analysis.tables.cells import ABSENT, Table

#: seed → the checks of that seed's model, each {check, state, n, said, values}.
Checks = Mapping[int, list[Mapping[str, Any]]]

#: The check that AutoAttack makes, on images of its own number.
ENSEMBLE = "ensemble"


def honesty_table(results: Results) -> Table:
    """Whether each check passes for each arm's models: PASS, or WARN with how many of the checked seeds warn."""
    found = checks(results)
    columns = ("Check", *(results.title(arm) for arm in found))
    named = dict.fromkeys(one["check"] for seeds in found.values() for one in _all(seeds))
    body = tuple((check, *(_cell(seeds, check, results.asked) for seeds in found.values())) for check in named)
    return Table("Honesty checks", columns, body, tuple(_notes(results, found)) if body else ())


def checks(results: Results) -> dict[str, Checks]:
    """arm → seed → checks, of the models that the tables rest on; arms without any are left out.

    Of a seed that was checked twice the later counts.
    """
    found: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for arm, group in results.current.checks.items():
        for record in [record for record in group if record["state"] == "done"]:
            held = {int(seed): list(done) for seed, done in record["checks"].items()}
            found.setdefault(arm, {}).update({s: done for s, done in held.items() if s in results.study.seeds})
    return {arm: seeds for arm, seeds in found.items() if seeds}


def _all(seeds: Checks) -> Iterable[Mapping[str, Any]]:
    return (one for done in seeds.values() for one in done)


def _cell(seeds: Checks, check: str, asked: int) -> str:
    states = [one["state"] for one in _all(seeds) if one["check"] == check and one["n"]]
    warned = len(states) - states.count("PASS")
    if warned:
        return f"WARN {warned} of {len(states)}"
    return ABSENT if not states else "PASS" if len(states) >= asked else f"PASS (n={len(states)})"


def _notes(results: Results, found: Mapping[str, Checks]) -> Iterable[str]:
    yield (
        f"PASS: of all {results.asked} seeds' models, or of (n=…) of them; {ABSENT}: did not run; WARN: in words below."
    )
    images, of_ensemble = _images(found, ensemble=False), _images(found, ensemble=True)
    ensemble = f" AutoAttack: {listed(of_ensemble)} of them." if of_ensemble else ""
    yield attack_said(results, f"{listed(images)} validation images") + ensemble
    reach = ", ".join(f"{50 * _width(n):.2g} points on {n}" for n in sorted({*images, *of_ensemble}))
    yield f"Half-width of Wilson's 95% interval of one model's accuracy of one half, by images: {reach}."
    yield from _told(found)
    yield from _unchecked(results, found)


def _images(found: Mapping[str, Checks], *, ensemble: bool) -> list[int]:
    """On how many images the checks were made, AutoAttack's or the others."""
    ran = [one for seeds in found.values() for one in _all(seeds) if one["n"]]
    return sorted({int(one["n"]) for one in ran if (one["check"] == ENSEMBLE) == ensemble})


def _unchecked(results: Results, found: Mapping[str, Checks]) -> Iterable[str]:
    """The models that the tables rest on without checks, and why, where the study asks for any."""
    why: dict[tuple[str, str], list[int]] = {}
    for arm, repeats in results.current.repeats.items():
        for seed in rows.finished_repeats(repeats, results.study.seeds) if results.study.checks else ():
            if seed not in found.get(arm, {}):
                why.setdefault((arm, _reason(results.current.checks[arm], seed)), []).append(seed)
    return [f"{arm}: {_named(seeds)} not checked{reason}." for (arm, reason), seeds in why.items()]


def _reason(tried: Iterable[Mapping[str, Any]], seed: int) -> str:
    ended = [record for record in tried if seed in record["seeds"]]
    if not ended:
        return " yet"
    error = rows.first_line(ended[-1].get("error"))
    return f", {ended[-1]['state']}" + (f": {error}" if error else "")


def _told(found: Mapping[str, Checks]) -> Iterable[str]:
    """Each warning and each check that did not run, with the models of which the same is said in one line."""
    said: dict[str, dict[str, list[int]]] = {}
    for arm, seeds in found.items():
        for seed in sorted(seeds):
            for one in seeds[seed]:
                if one["state"] != "PASS" or not one["n"]:
                    images = f" (n = {one['n']} images)" if one["n"] else ", did not run"
                    line = f"{one['check']}: {one['said']}{images}"
                    said.setdefault(line, {}).setdefault(arm, []).append(seed)
    everyone = {arm: sorted(seeds) for arm, seeds in found.items()}
    for line, models in said.items():
        named = (f"{arm}, {_named(seeds)}" for arm, seeds in models.items())
        yield f"{'all checked models' if models == everyone else '; '.join(named)}: {line}."


def _named(seeds: list[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _width(images: int) -> float:
    low, high = wilson(0.5, images)
    return high - low
