"""A search trial from its trainings with several seeds."""

from collections.abc import Mapping, Sequence

from tune_interpreg.store.store import Record
from tune_interpreg.study.recipe import digest

#: The states of a trial of several seeds: the first that one of its seeds has.
PRECEDENCE = ("diverged", "failed", "pruned", "done")


def average_seeds(seeds: Sequence[Record]) -> Record:
    """Return the trial of these trainings, each with the judgments of its model.

    ``trainings`` holds their records. Of several seeds, metrics and curve are means, if all are done. A pruned trial
    has the same metrics in every record, those that its pruner saw. ``judged`` has the judgments of all models.
    """
    first = seeds[0] | {"trainings": [seed["training"] for seed in seeds]}
    if len(seeds) == 1:
        return first
    state = min((seed["state"] for seed in seeds), key=PRECEDENCE.index)
    trial = first | {
        "key": digest([seed["key"] for seed in seeds]),
        "state": state,
        "error": next((seed["error"] for seed in seeds if seed["error"]), None),
        "seconds": sum(seed["seconds"] for seed in seeds),
        "judged": [key for seed in seeds for key in seed["judged"]],
        "is_complete": all(seed["is_complete"] for seed in seeds),
        "is_lost": any(seed["is_lost"] for seed in seeds),
    }
    if state == "done":
        trial["metrics"] = average([seed["metrics"] for seed in seeds])
        trial["curve"] = [average(epoch) for epoch in zip(*(seed.get("curve", []) for seed in seeds), strict=False)]
    elif state != "pruned":
        trial |= {"metrics": {}, "curve": []}
    return trial


def average(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all have, as workers report it to a pruner, to the last digit."""
    names = [name for name in metrics[0] if all(name in values for values in metrics)]
    return {name: sum(values[name] for values in metrics) / len(metrics) for name in names}
