"""The driver's side of a run: pass the results of a worker's steps to the dispatcher (their keys: see `worker.py`)."""

import json
from collections.abc import Mapping
from typing import Any

from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.files import Refused
from tune_interpreg.study.items import Job


def record_result(dispatcher: Dispatcher, job: Job, result: Mapping[str, Any]) -> bool:
    """Pass the result of a worker's step to the dispatcher. Raises ``Refused`` if the worker could not write.

    Returns whether the job has ended: by its last record, or by its arm's pruner.
    """
    if "warning" in result:
        dispatcher.say(result["warning"])
    if "refused" in result:
        raise Refused(result["refused"])
    pruned = dispatcher.epoch(job, *_epoch_reports(result))
    if pruned:
        spent = json.loads(result.get("spent", "{}"))
        dispatcher.prune(job, pruned, seconds=sum(spent.values()), spent=spent)
        return True
    if "records" in result:
        dispatcher.take(job, json.loads(result["records"]))
        if result["done"]:
            dispatcher.end(job)
    return "records" in result and bool(result["done"])


def _epoch_reports(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the reports of epochs in a result, in order. A result with records reports no epoch of its own.

    A report holds the metrics, which have a slash in their names, and counters. Tune adds ``config/``.
    """
    reports = json.loads(result.get("earlier", "[]"))
    if "records" in result or "epoch" not in result:  # without an epoch, a part of the maps for a training
        return reports
    names = [name for name in result if "/" in name or name in ("epoch", "of", "maps")]
    return [*reports, {name: result[name] for name in names if not name.startswith("config/")}]
