"""Records of search trials, answered by a closed form.

The loss is 2·√λ. The adversarial accuracy is exp(−log²(λ / 0.1)) − 0.1·φ, so it peaks at λ = 0.1, φ = 0.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from tune_interpreg.search.arm_search import ArmSearch
from tune_interpreg.search.bounds import Bounds
from tune_interpreg.search.journal import open_journal
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.config import Attack
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Job, Train
from tune_interpreg.study.measures import Observation, StrictMeasure
from tune_interpreg.study.metric_names import TRAIN_LOSS, VAL_ACCURACY, VAL_ADV_ACCURACY
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.study.space import Range, Search

OBSERVATION = Observation(strict=StrictMeasure(attack=Attack()), every=0)
SPACE = {"lambda": Range(log_uniform=(0.001, 1.0)), "phi": Range(choice=(0.0, 1.0))}
EPOCHS = 2
BEST = Search(space=SPACE, maximize=VAL_ADV_ACCURACY, trials=12)
MEDIAN = BEST.model_copy(update={"pruner": "median"})
MATCH = Search(space={"lambda": SPACE["lambda"]}, match_loss_of="robust", trials=8)
TARGET = Target(loss=1.0, noise=0.01, error=0.005)  # λ = 0.25


def adv_accuracy(params: Mapping[str, Scalar]) -> float:
    return math.exp(-(math.log(float(params["lambda"]) / 0.1) ** 2)) - 0.1 * float(params.get("phi", 0.0))


def trial_record(
    number: int,
    params: Mapping[str, Scalar],
    state: ledger.RecordState = "done",
    metrics: Mapping[str, float] | None = None,
) -> Record:
    """Return a judged trial of seed 0. ``metrics`` replaces the closed form's; a failed or diverged trial has none."""
    model = Train(recipe=Recipe(method="m", params=dict(params)), seed=0)
    job = Job(
        arm="arm", stage="search", number=number, models=(model,), trains=True, observation=OBSERVATION, batch_size=500
    )
    if metrics is None:
        loss = 2 * float(params["lambda"]) ** 0.5
        metrics = {TRAIN_LOSS: loss, VAL_ADV_ACCURACY: adv_accuracy(params), VAL_ACCURACY: 0.9}
    kept = metrics if state in ("done", "pruned") else {}
    return ledger.make_record(job, model, state, metrics=kept, epochs=EPOCHS) | {"judged": []}


def open_search(
    search: Search,
    records: Sequence[Record] | dict[int, Record],
    path: Path | None = None,
    *,
    target: Target = TARGET,
    seed: int = 0,
) -> ArmSearch:
    """Open the search of the arm "arm", with a journal at ``path`` or in memory.

    records: the settled trials; a dictionary, by number, may grow.
    """
    storage = open_journal(path) if path else optuna.storages.InMemoryStorage()
    matched = target if search.match_loss_of else None
    bounds = Bounds({metric: float(condition.at_least or 0.0) for metric, condition in search.where.items()})
    trials = records if isinstance(records, dict) else {record["number"]: record for record in records}
    return ArmSearch(
        "arm", search, seed=seed, storage=storage, target=matched, bounds=bounds, trials=trials, epochs=EPOCHS
    )


def journal_trials(path: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="arm", storage=open_journal(path)).trials
