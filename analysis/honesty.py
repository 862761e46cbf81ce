"""The honesty checks of the evaluation, one row a check, one column an arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from analysis import rows
from analysis.cells import ABSENT, Table
from analysis.intervals import wilson
from analysis.results import Results
from analysis.tables import attack_note

#: seed → the checks of that seed's model, each {check, state, n, said, values}.
Checks = Mapping[int, list[Mapping[str, Any]]]


def honesty_table(results: Results) -> Table:
    """Whether each check passes for each arm's models: PASS, or WARN with how many of the checked seeds warn."""
    found = checks(results)
    columns = ("Check", *(results.title(arm) for arm in found))
    named = dict.fromkeys(one["check"] for seeds in found.values() for one in _all(seeds))
    body = tuple((check, *(_cell(seeds, check, results.asked) for seeds in found.values())) for check in named)
    return Table("Honesty checks", columns, body, tuple(_notes(results, found)) if body else ())


def checks(results: Results) -> dict[str, Checks]:
    """arm → seed → checks, of the models that the tables rest on; arms without any are left out.

    A record of role ``checks`` counts where it is done and checked a model of the arm's repeats; of a seed that was
    checked twice the later counts.
    """
    found: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for arm, repeats in rows.repeats(results.records, results.study).items():
        models = {record["key"] for record in repeats}
        own = [r for r in results.records if (r["arm"], r["role"], r["state"]) == (arm, "checks", "done")]
        known = (record for record in own if record["recipe"]["checked"]["model"] in models)
        for record in sorted(known, key=lambda record: str(record["finished"])):
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
    yield attack_note(results)
    images = sorted({int(one["n"]) for seeds in found.values() for one in _all(seeds) if one["n"]})
    reach = ", ".join(f"{50 * _width(n):.2g} points on {n}" for n in images)
    yield f"Half-width of Wilson's 95% interval of one model's accuracy of one half, by images: {reach}."
    yield from _told(found)
    for arm, seeds in found.items():
        if lacking := [seed for seed in results.study.seeds if seed not in seeds]:
            yield f"{arm}: {_named(lacking)} not checked yet."


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
