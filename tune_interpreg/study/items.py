"""Items: the pieces of work of a study."""

from __future__ import annotations

from typing import Literal

from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.recipe import Recipe, digest

Role = Literal["search", "repeat", "targets", "checks"]


class Item(Frozen):
    """One piece of work: train a recipe with some seeds, make a teacher's maps, or check a trained model.

    role: ``search`` (judged on the validation split), ``repeat`` (on the test split too), ``targets`` or ``checks``.
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
        middle = {"search": f"{self.number:03d}", "targets": "maps"}.get(self.role, f"seed{seeds}")
        return f"{self.role}-{middle}-{self.key[:6]}"

    @property
    def title(self) -> str:
        """The item in words: arm, stage, and the parameters or seeds."""
        if self.role == "targets":
            return f"{self.arm}: target maps"
        if self.role != "search":
            return f"{self.arm}: {self.role}, seed {', '.join(map(str, self.seeds))}"
        numbers = {name: value for name, value in self.recipe.params.items() if not isinstance(value, str)}
        params = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        return f"{self.arm}: trial {self.number} ({params})"
