"""Where each number comes from: the trials behind it, as JSON for the page."""

from __future__ import annotations

from typing import Any

from analysis.results import rows
from analysis.results.current import Record
from analysis.results.results import Results


def provenance(results: Results) -> dict[str, Any]:
    """By arm, what a reader of the page may ask of its numbers.

    arms: arm → title, method, recipe, parameters, maps, what its search has tried and chosen, trials (seed → key,
    device, seconds, finished, place in versions) and values (metric → seed → value, as in the ledger).
    versions: of the software, each set once.
    """
    versions: list[dict[str, str]] = []
    arms = {arm: _arm(results, arm, group, versions) for arm, group in results.current.repeats.items()}
    return {"arms": arms, "versions": versions}


def _arm(results: Results, arm: str, group: list[Record], versions: list[dict[str, str]]) -> dict[str, Any]:
    trials = {seed: _trial(record, versions) for seed, record in rows.finished_repeats(group, results.study.seeds).items()}
    metrics = results.frame.loc[results.frame["arm"] == arm, "metric"].unique()
    recipe = group[-1]["recipe"] if group else {}
    return {
        "title": results.title(arm),
        "method": results.study.arms[arm].method,
        "recipe": group[-1]["recipe_key"] if group else None,
        "params": recipe.get("params", {}),
        "maps": recipe.get("maps"),
        "search": _search(results, arm),
        "trials": trials,
        "values": {metric: results.values(arm, metric) for metric in metrics},
    }


def _trial(record: Record, versions: list[dict[str, str]]) -> dict[str, Any]:
    used = record.get("versions", {})
    if used not in versions:
        versions.append(used)
    facts = {name: record.get(name) for name in ("key", "device", "seconds", "finished")}
    return facts | {"seeds": len(record["seeds"]), "versions": versions.index(used)}


def _search(results: Results, arm: str) -> dict[str, Any] | None:
    if results.study.arms[arm].search is None:
        return None
    states = [record["state"] for record in results.current.trials[arm]]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return {"trials": counts, "chosen": results.current.choices.get(arm, {}).get("params", {})}
