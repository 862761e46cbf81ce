"""Recipes: everything that determines a result, and the keys that name it.

A key is a hash of everything that determines a result and of nothing else: an equal key means an equal
result, so a rerun is a lookup.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, field_validator

from tune_interpreg import registry
from tune_interpreg.study.config import Attack, Data, Evaluation, MapSettings, Model, Permutation, Study, Training
from tune_interpreg.study.fields import Frozen, Scalar

#: Raised whenever the code changes what a recipe results in; old results are then left alone and made anew.
FORMAT = 3


def digest(content: Any) -> str:
    """16 hexadecimal digits that name ``content``, whatever the order of its keys."""
    text = json.dumps([FORMAT, content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Maps(MapSettings):
    """The SmoothGrad maps of one trained model: ``teacher`` is the key of the item that trained it."""

    teacher: str
    teacher_seed: int
    permute: Permutation | None = None

    @property
    def key(self) -> str:
        """Names the raw maps; the permutation is applied by whoever reads them."""
        return digest(self.model_dump(exclude={"permute"}, exclude_defaults=True))


class CheckedModel(Frozen):
    """The trained model that is checked, and by what.

    model, seed: the key of the item that trained it, and with which seed. sources: by arm, the keys of the items that
    trained other models with that seed. images, autoattack: as in ``config.Checks``.
    """

    model: str
    seed: int
    sources: dict[str, str] = Field(default_factory=dict)
    images: int
    autoattack: int | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The keys of all models that the checks need."""
        return (self.model, *self.sources.values())


class Recipe(Frozen):
    """All that determines a trained model and its metrics, except the seeds."""

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
    plugins: dict[str, str] = Field(default_factory=dict, description="package → version, of other packages' code")

    @field_validator("evaluation_attack")
    @classmethod
    def _in_float32(cls, attack: Attack) -> Attack:
        if attack.precision != "float32":
            raise ValueError(f"models are judged in float32, got {attack.precision}")
        return attack

    @classmethod
    def from_study(cls, study: Study, *, method: str, **own: Any) -> Recipe:
        """The recipe of one trial of ``study``: the shared setting, and the trial's ``method`` and ``own`` fields."""
        shared = ("data", "model", "training", "attack", "evaluation", "evaluation_attack")
        methods = [("methods", part.strip()) for part in method.split("+")]
        used = registry.plugin_versions([("datasets", study.data.name), ("models", study.model.name), *methods])
        return cls(**{name: getattr(study, name) for name in shared}, method=method, plugins=used, **own)

    @property
    def key(self) -> str:
        """Names the recipe; where the data lies is no part of it, nor whether a parameter is written 1 or 1.0.

        Options at their defaults are left out, so that a version with one more option finds what older ones made.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        content.get("data", {}).pop("root", None)
        content["params"] = {name: float(x) if isinstance(x, int) else x for name, x in self.params.items()}
        return digest(content)
