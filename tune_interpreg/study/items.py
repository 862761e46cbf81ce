"""Items: the pieces of work of a study, and jobs: the items that one worker runs.

An item's key is a hash of exactly what determines its result. The arm and the number of a trial belong to the job.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tune_interpreg.study.config import MapSettings
from tune_interpreg.study.fields import Frozen, Scalar, format_param
from tune_interpreg.study.measures import Measure, Observation, Question, SplitName
from tune_interpreg.study.recipe import Recipe, digest
from tune_interpreg.study.setting import read_params

#: The stages of an arm, in the order in which it goes through them.
StageName = Literal["search", "repeats", "maps", "judgments"]


class Train(Frozen):
    """Train a recipe with one seed."""

    kind: Literal["train"] = "train"
    recipe: Recipe
    seed: int

    @property
    def key(self) -> str:
        return digest([self.kind, self.recipe.key, self.seed])


class Maps(Frozen):
    """Make the raw SmoothGrad maps of all training images with a trained model."""

    kind: Literal["maps"] = "maps"
    teacher: str = Field(description="Key of the model's training.")
    settings: MapSettings

    @property
    def key(self) -> str:
        return digest([self.kind, self.teacher, self.settings.model_dump(mode="json", exclude_defaults=True)])


class Judge(Frozen):
    """Take one measure of a trained model on one split."""

    kind: Literal["judge"] = "judge"
    model: str = Field(description="Key of the model's training.")
    measure: Measure
    split: SplitName

    @property
    def key(self) -> str:
        settings = self.measure.model_dump(mode="json", exclude_defaults=True)
        return digest([self.kind, self.model, self.measure.kind, settings, self.split])


Item = Annotated[Train | Maps | Judge, Field(discriminator="kind")]


class Job(Frozen):
    """The items that one worker runs: trainings of one recipe, then maps or judgments of the trained models.

    trains: whether the models are trained in this job, or are in the store.
    """

    arm: str
    stage: StageName
    number: int | None = Field(None, description="Number of the trial in the arm's search.")
    models: tuple[Train, ...] = Field(min_length=1)
    trains: bool
    work: tuple[Maps | Judge, ...] = ()
    maps: Job | None = Field(
        None, description="The job that makes the maps of these trainings alone, before they start."
    )
    names: dict[str, str] = Field(default_factory=dict, description="Key of a judgment → name of its entry, if any.")
    searched: tuple[str, ...] = Field((), description="Names of the parameters that the arm searches.")
    observation: Observation
    batch_size: int = Field(description="Images per forward, in validation and in judgments.")

    @property
    def items(self) -> tuple[Train | Maps | Judge, ...]:
        """The items in their order."""
        return (*self.models, *self.work) if self.trains else self.work

    @property
    def recipe(self) -> Recipe:
        """The recipe of all models."""
        return self.models[0].recipe

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(model.seed for model in self.models)

    @property
    def parts(self) -> tuple[int, ...]:
        """The parts of its arm's stage that the job settles: the number of a trial, or seeds."""
        return self.seeds if self.number is None else (self.number,)

    @property
    def key(self) -> str:
        """Name of the job's folder: the key of its maps, of its only training, or a hash of its trainings' keys."""
        if self.stage == "maps":
            return self.work[0].key
        keys = [model.key for model in self.models]
        return keys[0] if len(keys) == 1 else digest(keys)

    @property
    def label(self) -> str:
        """Short name, unique within the arm and safe in a path. Judgments of a repeat have the label of the repeat."""
        if self.number is not None:
            return f"search-{self.number:03d}-{self.key[:6]}"
        seeds = "-".join(map(str, self.seeds)) if len(self.seeds) < 9 else f"s-{len(self.seeds)}"
        return f"{'maps' if self.stage == 'maps' else 'repeat'}-seed{seeds}-{self.key[:6]}"

    @property
    def settings(self) -> dict[str, Scalar]:
        """The values of the searched settings, which are no parameters of the method."""
        dotted = [name for name in self.searched if "." in name]
        return read_params(self.recipe.model_dump(mode="json"), dotted) if dotted else {}

    @property
    def title(self) -> str:
        """Name of the job for people: arm, stage, and parameters or seeds."""
        seeds = f"seed {', '.join(map(str, self.seeds))}"
        if self.stage == "maps":
            return f"{self.arm}: target maps"
        if self.number is None:
            return f"{self.arm}: {seeds}" if self.trains else f"{self.arm}: judgments, {seeds}"
        numbers = {name: value for name, value in self.recipe.params.items() if not isinstance(value, str)}
        params = ", ".join(f"{name} {format_param(value)}" for name, value in (numbers | self.settings).items())
        return f"{self.arm}: {'' if self.trains else 'judgments, '}trial {self.number} ({params})"

    def model_of(self, item: Train | Maps | Judge) -> Train:
        """Return the training of the model that an item trains or reads."""
        if isinstance(item, Train):
            return item
        key = item.teacher if isinstance(item, Maps) else item.model
        return next(model for model in self.models if model.key == key)


def judgments(model: str, questions: list[Question]) -> list[Judge]:
    """Return the judgments of a model that answer questions."""
    return [Judge(model=model, measure=question.measure, split=question.split) for question in questions]
