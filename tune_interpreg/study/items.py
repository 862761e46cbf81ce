"""Items: the pieces of work of a study."""

from typing import Literal

from pydantic import Field

from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.recipe import Recipe, digest

Role = Literal["search", "repeat", "targets", "checks"]


class Item(Frozen):
    """A piece of work: train a recipe with some seeds, make a teacher's maps, or check a trained model."""

    arm: str
    role: Role = Field(
        description="``search``: train, judge on validation data. ``repeat``: train, judge on test data too."
        " ``targets``: make maps. ``checks``: check a trained model."
    )
    recipe: Recipe
    seeds: tuple[int, ...]
    number: int = Field(0, description="Number of the trial in the arm's search; 0 for other roles.")
    adversarial: bool = Field(True, description="Attack the model in validation.")

    @property
    def key(self) -> str:
        """Key of the result: a hash of recipe, role, seeds and the kind of validation."""
        return digest([self.recipe.key, self.role, self.seeds, self.adversarial])

    @property
    def parts(self) -> tuple[int, ...]:
        """The parts of its arm's stage that the item finishes: the number of a search trial, or its seeds."""
        return (self.number,) if self.role == "search" else self.seeds

    @property
    def label(self) -> str:
        """Short name, unique within the arm and safe in a path."""
        seeds = "-".join(map(str, self.seeds)) if len(self.seeds) < 9 else f"s-{len(self.seeds)}"
        middle = {"search": f"{self.number:03d}", "targets": "maps"}.get(self.role, f"seed{seeds}")
        return f"{self.role}-{middle}-{self.key[:6]}"

    @property
    def title(self) -> str:
        """Name of the item for people: arm, stage, and parameters or seeds."""
        if self.role == "targets":
            return f"{self.arm}: target maps"
        if self.role != "search":
            return f"{self.arm}: {self.role}, seed {', '.join(map(str, self.seeds))}"
        numbers = {name: value for name, value in self.recipe.params.items() if not isinstance(value, str)}
        params = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        return f"{self.arm}: trial {self.number} ({params})"
