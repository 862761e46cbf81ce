"""A study's results for notebooks: one pandas DataFrame."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.results import Results
from tune_interpreg.store.store import Store
from tune_interpreg.study.setting import describe_training

#: The columns in order, explained in ``results``.
COLUMNS = (
    *("arm", "title", "method", "seed", "state", "metric", "value", "images"),
    *("params", "key", "recipe_key", "device", "seconds", "finished"),
)


def results(store: str | Path) -> pd.DataFrame:
    """Return the repeats of a store's study: one row per arm, seed and metric, and one per missing seed.

    arm, title, method: as in the study. seed: an int. state: ``done``, or why a seed is missing: ``absent`` (not in
    the ledger yet), ``failed``, ``diverged`` or ``pruned``. The value of a missing seed is NaN, its metric, keys and
    device are empty. metric: such as ``test/accuracy``, ``test/adv_accuracy_strict``, ``grad_norm/label``,
    ``train/loss``. value: as measured: accuracies are fractions in [0, 1], losses nats, gradient norms logits per unit
    of a pixel; NaN if not finite. images: how many it was measured on. params: a dictionary of the method's parameters,
    and of the settings that differ from the study's, such as ``training.lr``. key: the training's record in the ledger.
    recipe_key: equal for all seeds of one recipe. device: of the training. seconds: of the training, without judgments.
    finished: the time of its end in UTC.

    store: the folder of a running or finished study; nothing is written. Only seeds of the study are included, and of
    repeats under several recipes only the latest. Raises ``StoreError`` if the folder is no store.
    """
    return tabulate(Results.from_store(Store(store)))


def tabulate(results: Results) -> pd.DataFrame:
    """Return the rows of ``results`` from results that are already read."""
    arms = results.study.arms
    empty: dict[str, Any] = {"params": {}, "metric": "", "key": "", "recipe_key": "", "device": "", "images": 0}
    current = results.current
    records = {(arm, record["key"]): record for arm in arms for record in current.finished_repeats(arm).values()}
    rows: Any = results.frame.to_dict(orient="records")
    params = {place: describe_training(results.study, record["recipe"]) for place, record in records.items()}
    lines = [records[row["arm"], row["key"]] | row | {"params": params[row["arm"], row["key"]]} for row in rows]
    lines += [empty | {"arm": gap.arm, "seed": gap.seed, "state": gap.state} for gap in results.missing]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    frame["title"] = frame["arm"].map(results.title)
    frame["method"] = frame["arm"].map(lambda arm: arms[arm].method)
    frame["finished"] = pd.to_datetime(frame["finished"], utc=True).dt.as_unit("s")
    return frame.astype({"seed": "int64", "value": "float64", "images": "int64", "seconds": "float64"})
