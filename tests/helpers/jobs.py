"""Jobs that train one model."""

from collections.abc import Sequence

from tune_interpreg.study.config import Attack
from tune_interpreg.study.items import Job, Judge, Train
from tune_interpreg.study.measures import Observation, StrictMeasure
from tune_interpreg.study.recipe import Recipe


def training_job(
    recipe: Recipe, arm: str = "arm", *, seed: int = 0, number: int | None = None, work: Sequence[Judge] = ()
) -> Job:
    """Return the job of a repeat, or of the trial with a number. Validation attacks in the last epoch only."""
    return Job(
        arm=arm,
        stage="repeats" if number is None else "search",
        number=number,
        models=(Train(recipe=recipe, seed=seed),),
        trains=True,
        work=tuple(work),
        observation=Observation(strict=StrictMeasure(attack=Attack(steps=1)), every=recipe.training.epochs),
        batch_size=50,
    )
