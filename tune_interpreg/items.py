"""Items: the pieces of work that a study is made of, and the keys that name their results.

A key is a hash of everything that determines a result and of nothing else: an equal key means an equal
result, so a rerun is a lookup.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from tune_interpreg.config import Attack, Data, Evaluation, Study, Training
from tune_interpreg.fields import Frozen, Param

#: Raised whenever the code changes what a recipe results in; old results are then left alone and made anew.
FORMAT = 1

Role = Literal["search", "repeat", "targets"]


def digest(content: Any) -> str:
    """16 hexadecimal digits that name ``content``, whatever the order of its keys."""
    text = json.dumps([FORMAT, content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Maps(Frozen):
    """The SmoothGrad maps of one trained model: ``teacher`` is the key of the item that trained it."""

    teacher: str
    teacher_seed: int
    sigma: float
    samples: int
    permute: bool = False

    @property
    def key(self) -> str:
        """Names the raw maps; the permutation is applied by whoever reads them."""
        return digest(self.model_dump(exclude={"permute"}))


class Recipe(Frozen):
    """All that determines a trained model and its metrics, except the seeds."""

    method: str
    params: dict[str, Param] = Field(default_factory=dict)
    data: Data = Data()
    data_fingerprint: str = ""
    model: str = "digits_cnn"
    training: Training = Training()
    attack: Attack = Attack()
    evaluation: Evaluation = Evaluation()
    evaluation_attack: Attack = Attack()
    maps: Maps | None = None

    @classmethod
    def of(cls, study: Study, **own: Any) -> Recipe:
        """The recipe of one trial of ``study``: the shared setting and the trial's ``own`` fields."""
        shared = ("data", "model", "training", "attack", "evaluation", "evaluation_attack")
        return cls(**{name: getattr(study, name) for name in shared}, **own)

    @property
    def key(self) -> str:
        """Names the recipe; where the data lies is no part of it, nor whether a parameter is written 1 or 1.0."""
        content = self.model_dump(mode="json")
        content["data"].pop("root")
        content["params"] = {name: float(x) if isinstance(x, int) else x for name, x in self.params.items()}
        return digest(content)


class Item(Frozen):
    """One piece of work: train a recipe with some seeds, or make a teacher's maps.

    role: ``search`` (judged on the validation split), ``repeat`` (on the test split too) or ``targets``.
    number: which proposal of the arm's search this is, else 0.
    adversarial: whether validation includes an attack.
    """

    arm: str
    role: Role
    recipe: Recipe
    seeds: tuple[int, ...]
    number: int = 0
    adversarial: bool = True

    @property
    def key(self) -> str:
        """Names the result: recipe, role and seeds."""
        return digest([self.recipe.key, self.role, self.seeds, self.adversarial])

    @property
    def parts(self) -> tuple[int, ...]:
        """What it settles of its arm's stage: the number of a search trial, else its seeds."""
        return (self.number,) if self.role == "search" else self.seeds

    @property
    def label(self) -> str:
        """A short name for people, unique within the arm; safe in a path."""
        seeds = "-".join(map(str, self.seeds)) if len(self.seeds) < 9 else f"s-{len(self.seeds)}"
        middle = {"search": f"{self.number:03d}", "repeat": f"seed{seeds}", "targets": "maps"}[self.role]
        return f"{self.role}-{middle}-{self.key[:6]}"
