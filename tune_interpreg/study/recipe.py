"""Recipes: everything that determines a trained model. Equal keys mean equal results: a rerun is a lookup."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field

from tune_interpreg import registry
from tune_interpreg.study.config import Attack, Data, MapSettings, Model, Permutation, Study, Training
from tune_interpreg.study.fields import Frozen, Scalar

#: Increased whenever the code changes results or the layout of a store. A store of another format is refused.
FORMAT = 4


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that name ``content``, independent of the order of its keys."""
    text = json.dumps([FORMAT, content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TargetMaps(Frozen):
    """The maps that a training reads, and how it reads them."""

    key: str = Field(description="Key of the item that makes the raw maps.")
    permute: Permutation | None = None
    settings: MapSettings | None = Field(None, description="Their settings if a search varies them; part of ``key``.")


class TeacherModel(Frozen):
    """The trained model that a training learns from."""

    key: str = Field(description="Key of the model's training.")
    seed: int = Field(description="Seed of this training.")
    model: Model = Field(Model(), description="Its network.")


class Recipe(Frozen):
    """Everything that determines a trained model, except the seed."""

    method: str
    params: dict[str, Scalar] = Field(default_factory=dict)
    data: Data = Data()
    data_fingerprint: str = ""
    model: Model = Model()
    training: Training = Training()
    attack: Attack = Field(Attack(), description="The attack of adversarial training.")
    maps: TargetMaps | None = None
    teacher: TeacherModel | None = None
    train_limit: int | None = Field(None, description="Training images, a stratified subset of the data's. None: all.")
    plugins: dict[str, str] = Field(default_factory=dict, description="Version of each other package with code in use.")

    @classmethod
    def from_study(cls, study: Study, *, method: str, **fields: Any) -> Recipe:
        """Return the recipe of a training: its ``method`` and ``fields``, and the setting of ``study`` for the rest."""
        shared = {name: getattr(study, name) for name in ("data", "model", "training", "attack")}
        recipe = cls(**shared | fields, method=method)
        return recipe.model_copy(update={"plugins": registry.plugin_versions(*recipe.registered)})

    @property
    def registered(self) -> list[tuple[str, str]]:
        """Group and name of everything that the recipe names in the registry."""
        return [("datasets", self.data.name), *self._computing]

    @property
    def code(self) -> dict[str, str]:
        """Module → checksum of its file, for a network and methods of other packages (images have their own)."""
        return registry.plugin_code(*self._computing)

    @property
    def _computing(self) -> list[tuple[str, str]]:
        return [("models", self.model.name), *(("methods", part.strip()) for part in self.method.split("+"))]

    @property
    def key(self) -> str:
        """Key of the recipe. The folder of the data is not part of it, and a parameter 1 equals 1.0.

        Options at their defaults are left out. A version with a new option then finds results of older versions.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        content.get("data", {}).pop("root", None)
        content.get("maps", {}).pop("settings", None)
        content["params"] = {name: float(x) if isinstance(x, int) else x for name, x in self.params.items()}
        return digest(content)
