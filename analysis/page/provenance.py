"""The trainings behind each number, as JSON for the page."""

from __future__ import annotations

from typing import Any

from analysis.results import rows
from analysis.results.results import Results
from tune_interpreg.store.store import Record


def provenance(results: Results) -> dict[str, Any]:
    """Return what a reader of the page can look up about its numbers.

    arms: arm → title, method, recipe, parameters, maps, search trials and choice, trials (seed → key, device, seconds,
    finished, index in versions) and values (metric → seed → value, as in the ledger). versions: each distinct set of
    software versions.
    """
    versions: list[dict[str, str]] = []
    arms = {arm: _arm(results, arm, group, versions) for arm, group in results.current.repeats.items()}
    return {"arms": arms, "versions": versions}


def _arm(results: Results, arm: str, group: list[Record], versions: list[dict[str, str]]) -> dict[str, Any]:
    finished = rows.finished_repeats(group, results.study.seeds)
    metrics = results.frame.loc[results.frame["arm"] == arm, "metric"].unique()
    recipe = group[-1]["recipe"] if group else {}
    return {
        "title": results.title(arm),
        "method": results.study.arms[arm].method,
        "recipe": group[-1]["recipe_key"] if group else None,
        "params": recipe.get("params", {}),
        "maps": recipe.get("maps"),
        "search": _search(results, arm),
        "trials": {seed: _trial(record, versions) for seed, record in finished.items()},
        "values": {metric: results.values(arm, metric) for metric in metrics},
    }


def _trial(record: Record, versions: list[dict[str, str]]) -> dict[str, Any]:
    of_record = record.get("versions", {})
    if of_record not in versions:
        versions.append(of_record)
    facts = {name: record.get(name) for name in ("key", "device", "seconds", "finished")}
    return facts | {"seeds": len(record["seeds"]), "versions": versions.index(of_record)}


def _search(results: Results, arm: str) -> dict[str, Any] | None:
    if results.study.arms[arm].search is None:
        return None
    states = [record["state"] for record in results.current.trials[arm]]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return {"trials": counts, "chosen": results.current.choices.get(arm, {}).get("params", {})}
