"""A study's results for notebooks: one pandas DataFrame."""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path

import pandas as pd

from analysis.results import rows
from analysis.results.results import Results
from tune_interpreg.store.store import Store

#: The columns, in their order; see ``results``.
COLUMNS = (
    *("arm", "title", "method", "seed", "state", "metric", "value", "images"),
    *("key", "recipe_key", "device", "seconds", "finished"),
)


def results(store: str | Path) -> pd.DataFrame:
    """The repeats of a store's study, one row an arm × seed × metric, and one row a seed that is missing.

    arm, title, method: as the study has them. seed: an int. state: ``done``; of a missing seed why, ``absent`` (not
    in the ledger yet), ``failed``, ``diverged`` or ``pruned``, its value NaN and its metric, keys and device empty.
    metric: such as ``test/accuracy``, ``test/adv_accuracy_strict``, ``grad_norm/label``, ``train/loss``. value: as
    measured: accuracies are fractions in [0, 1], losses nats, gradient norms logits per unit of a pixel; NaN where not
    finite. images: how many it rests on. key: the record in the ledger. recipe_key: equal for all seeds of one recipe.
    device: where it ran. seconds: what the trial took, of all its seeds together. finished: when, in UTC.

    store: the folder, of a study that runs or is done; nothing is written. Only seeds that the study asks for, and of
    repeats under several recipes only the latest. Raises ``StoreError`` where it is no store.
    """
    found = Results.from_store(Store(store))
    held = {(arm, record["key"]): record for arm, group in found.current.repeats.items() for record in group}
    done = [_done(found, row, held[row["arm"], row["key"]]) for row in found.frame.to_dict(orient="records")]
    missing = [_described(found, gap.arm) | {"seed": gap.seed, "state": gap.state} for gap in found.missing]
    frame = pd.DataFrame([*done, *missing], columns=list(COLUMNS))
    frame["finished"] = pd.to_datetime(frame["finished"], utc=True).dt.as_unit("s")
    return frame.astype({"seed": "int64", "value": "float64", "images": "int64", "seconds": "float64"})


def _done(found: Results, row: dict[Hashable, object], record: rows.Record) -> dict[str, object]:
    own = {str(name): value for name, value in row.items()}
    known = {name: record[name] for name in ("device", "seconds", "finished")}
    return _described(found, str(row["arm"])) | own | known | {"state": "done"}


def _described(found: Results, arm: str) -> dict[str, object]:
    """What the study says of an arm, and nothing of what the ledger would."""
    known = {"arm": arm, "title": found.title(arm), "method": found.study.arms[arm].method}
    texts = dict.fromkeys(("metric", "key", "recipe_key", "device"), "")
    return {**known, **texts, "images": 0, "value": math.nan, "seconds": math.nan, "finished": None}
