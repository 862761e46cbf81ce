"""Recipes: everything that determines a result, and their keys. Equal keys mean equal results: a rerun is a lookup."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field

from tune_interpreg import registry
from tune_interpreg.study.config import Attack, Data, Evaluation, MapSettings, Model, Permutation, Study, Training
from tune_interpreg.study.fields import Frozen, Scalar

#: Increased whenever the code changes the result of a recipe. Old results stay in the store, and new ones are made.
FORMAT = 4


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that name ``content``, independent of the order of its keys."""
    text = json.dumps([FORMAT, content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Maps(MapSettings):
    """The SmoothGrad maps of one trained model."""

    teacher: str = Field(description="Key of the item that trained the model.")
    teacher_seed: int
    permute: Permutation | None = None

    @property
    def key(self) -> str:
        """Key of the raw maps. The permutation is not part of it: readers permute."""
        return digest(self.model_dump(exclude={"permute"}, exclude_defaults=True))


class CheckedModel(Frozen):
    """The trained model that checks examine, and their settings."""

    model: str = Field(description="Key of the item that trained the model.")
    seed: int
    sources: dict[str, str] = Field(
        default_factory=dict, description="Arm → key of the item that trained another model with the same seed."
    )
    images: int = Field(description="As in ``config.Checks``.")
    autoattack: int | None = Field(None, description="As in ``config.Checks``.")

    @property
    def models(self) -> tuple[str, ...]:
        """Keys of all models that the checks need."""
        return (self.model, *self.sources.values())


class Recipe(Frozen):
    """Everything that determines a trained model and its metrics, except the seeds."""

    method: str
    params: dict[str, Scalar] = Field(default_factory=dict)
    data: Data = Data()
    data_fingerprint: str = ""
    model: Model = Model()
    training: Training = Training()
    attack: Attack = Attack()
    evaluation: Evaluation = Evaluation()
    evaluation_attack: Attack = Attack()
    maps: Maps | None = None
    checked: CheckedModel | None = None
    plugins: dict[str, str] = Field(default_factory=dict, description="Version of each other package with code in use.")

    @classmethod
    def from_study(cls, study: Study, *, method: str, **fields: Any) -> Recipe:
        """Return the recipe of a trial: the setting of ``study``, the trial's ``method`` and other ``fields``."""
        shared = ("data", "model", "training", "attack", "evaluation", "evaluation_attack")
        recipe = cls(**{name: getattr(study, name) for name in shared}, method=method, **fields)
        return recipe.model_copy(update={"plugins": registry.plugin_versions(*recipe.registered)})

    @property
    def registered(self) -> list[tuple[str, str]]:
        """Group and name of everything that the recipe names in the registry."""
        methods = [("methods", part.strip()) for part in self.method.split("+")]
        return [("datasets", self.data.name), ("models", self.model.name), *methods]

    @property
    def key(self) -> str:
        """Key of the recipe. The folder of the data is not part of it, and a parameter 1 equals 1.0.

        Options at their defaults are left out. A version with a new option then finds results of older versions.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        content.get("data", {}).pop("root", None)
        content["params"] = {name: float(x) if isinstance(x, int) else x for name, x in self.params.items()}
        return digest(content)
