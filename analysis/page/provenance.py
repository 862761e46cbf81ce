"""The trainings behind each number, as JSON for the page."""

from collections import Counter
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
    trials = {}
    for seed, record in rows.finished_repeats(group, results.study.seeds).items():
        if record.get("versions", {}) not in versions:
            versions.append(record.get("versions", {}))
        trials[seed] = {name: record.get(name) for name in ("key", "device", "seconds", "finished")}
        trials[seed] |= {"seeds": len(record["seeds"]), "versions": versions.index(record.get("versions", {}))}
    search = None
    if results.study.arms[arm].search:
        chosen = results.current.choices.get(arm, {}).get("params", {})
        search = {"trials": Counter(record["state"] for record in results.current.trials[arm]), "chosen": chosen}
    recipe = group[-1]["recipe"] if group else {}
    metrics = results.frame.loc[results.frame["arm"] == arm, "metric"].unique()
    return {
        "title": results.title(arm),
        "method": results.study.arms[arm].method,
        "recipe": group[-1]["recipe_key"] if group else None,
        "params": recipe.get("params", {}),
        "maps": recipe.get("maps"),
        "search": search,
        "trials": trials,
        "values": {metric: results.values(arm, metric) for metric in metrics},
    }
