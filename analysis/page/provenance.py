"""The trainings behind each number, as JSON for the page."""

from collections import Counter
from typing import Any

from analysis.results.results import Results
from tune_interpreg.study.setting import describe_training


def provenance(results: Results) -> dict[str, Any]:
    """Return what a reader of the page can look up about its numbers.

    arms: arm → title, method, recipe, parameters, maps, search trials and choice, trials (seed → key, device, seconds,
    finished, index in versions) and values (metric → seed → value, as in the ledger). versions: each distinct set of
    software versions.
    """
    versions: list[dict[str, str]] = []
    arms = {arm: _arm(results, arm, versions) for arm in results.study.arms}
    return {"arms": arms, "versions": versions}


def _arm(results: Results, arm: str, versions: list[dict[str, str]]) -> dict[str, Any]:
    trials, repeats = {}, [*results.current.repeats[arm].values()]
    for seed, record in results.current.finished_repeats(arm).items():
        if record["versions"] not in versions:
            versions.append(record["versions"])
        trials[seed] = {name: record[name] for name in ("key", "device", "seconds", "finished")}
        trials[seed]["versions"] = versions.index(record["versions"])
    search = None
    if results.study.arms[arm].search:
        chosen = results.current.choices.get(arm, {}).get("params", {})
        search = {"trials": Counter(record["state"] for record in results.current.list_trials(arm)), "chosen": chosen}
    study_arm, last = results.study.arms[arm], repeats[-1] if repeats else {}
    targets = study_arm.targets
    metrics = results.frame.loc[results.frame["arm"] == arm, "metric"].unique()
    return {
        "title": results.title(arm),
        "method": study_arm.method,
        "teacher": study_arm.teacher,
        "recipe": last.get("recipe_key"),
        "params": describe_training(results.study, last["recipe"]) if last else {},
        "maps": targets.model_dump(mode="json") if targets else None,
        "search": search,
        "trials": trials,
        "values": {metric: results.values(arm, metric) for metric in metrics},
    }
