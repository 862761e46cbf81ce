"""Jobs of one recipe, and the configuration that a study gives their workers."""

from collections.abc import Sequence
from typing import Any

from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack
from tune_interpreg.study.items import Job, Judge, Train
from tune_interpreg.study.measures import Observation, StrictMeasure
from tune_interpreg.study.recipe import Recipe


def training_job(
    recipe: Recipe,
    arm: str = "arm",
    *,
    seed: int = 0,
    number: int | None = None,
    work: Sequence[Judge] = (),
    **fields: Any,
) -> Job:
    """Return the job of a repeat, or of the trial with a number. Validation attacks in the last epoch only.

    fields: further fields of the job, or others in place of these.
    """
    content: dict[str, Any] = {
        "arm": arm,
        "stage": "repeats" if number is None else "search",
        "number": number,
        "models": (Train(recipe=recipe, seed=seed),),
        "trains": True,
        "work": tuple(work),
        "observation": Observation(strict=StrictMeasure(attack=Attack(steps=1)), every=recipe.training.epochs),
        "batch_size": 50,
    }
    return Job(**content | fields)


def config_of(job: Job, store: Store) -> dict[str, Any]:
    """Return what a study gives the worker of a job."""
    return {"job": job.model_dump(mode="json"), "store": str(store.path), "device": "cpu"}
