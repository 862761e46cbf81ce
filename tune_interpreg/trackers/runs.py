"""The trainings of a store as runs of a tracker."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from analysis.results.results import Results
from analysis.results.rows import first_line
from tune_interpreg.store.store import Record, flatten
from tune_interpreg.study.config import Study
from tune_interpreg.study.recipe import digest
from tune_interpreg.study.setting import list_settings, map_settings, read_params
from tune_interpreg.trackers.tracker import TrackedRun


def list_runs(results: Results) -> Iterator[TrackedRun]:
    """Yield a run per training that counts for the study as it is now, by arm; trials come first, by number."""
    for arm in results.study.arms:
        trainings: defaultdict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for stage, training in results.current.judged_trainings(arm):
            trainings[training["key"]][stage].append(training)
        for by_stage in trainings.values():
            yield _make_run(results.study, arm, by_stage)


def _make_run(study: Study, arm: str, by_stage: Mapping[str, list[Record]]) -> TrackedRun:
    """Return the run of one training, from its copies as a trial or a repeat, with their judgments."""
    judged = [training for trainings in by_stage.values() for training in trainings]
    record, recipe = judged[0]["training"], judged[0]["recipe"]
    metrics: dict[str, float] = {}
    for training in judged:
        metrics |= training["metrics"]
    numbers = [training["number"] for training in by_stage.get("search", ())]
    trial = f" trial {min(numbers)}" if numbers else ""
    facts = {
        "stage": ", ".join(by_stage),
        "state": record["state"],
        "trial": ", ".join(map(str, sorted(numbers))),
        "key": record["key"],
        "recipe_key": record["recipe_key"],
        "device": record["device"],
        "seconds": f"{record['seconds']:g}",
        "error": first_line(record["error"]) or "",
    }
    finished = datetime.fromisoformat(record["finished"])
    return TrackedRun(
        id=digest(["run", arm, record["key"]]),
        name=f"{arm}{trial} seed {record['seed']}",
        arm=arm,
        stages=tuple(by_stage),
        state=record["state"],
        params={"arm": arm, "method": recipe["method"], "seed": record["seed"]} | _list_params(study, arm, recipe),
        facts={name: text for name, text in facts.items() if text},
        epochs=tuple(record.get("curve", ())),
        metrics=metrics,
        started=finished - timedelta(seconds=record["seconds"]),
        finished=finished,
        records=frozenset({f"{arm}/{record['key']}", *(key for training in judged for key in training["judged"])}),
        is_complete=all(training["is_complete"] for training in judged),
    )


def _list_params(study: Study, name: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a recipe's method and its whole setting, by dotted names, without nulls."""
    arm = study.arms[name]
    data = {key: value for key, value in recipe["data"].items() if key not in ("options", "train_limit")}
    limit = recipe.get("train_limit") or recipe["data"]["train_limit"]
    maps = map_settings(arm, read_params(recipe, arm.search.ranges) if arm.search else {})
    params = {
        **recipe["params"],
        **list_settings(recipe),
        "data": data | recipe["data"]["options"],
        "data.train_limit": limit,
        "teacher": arm.teacher,
        "targets": maps.model_dump(mode="json") if maps else {},
    }
    return {key: value for key, value in flatten(params).items() if value is not None}
