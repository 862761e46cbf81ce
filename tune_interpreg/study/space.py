"""What a search may try: ranges, the goal, and the parameters that methods take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator, model_validator

from tune_interpreg.study.fields import Frozen, Integer, Scalar, format_value, is_number
from tune_interpreg.study.metric_names import TRAIN_CE, TRAIN_LOSS, Selectable


def _pair(value: Any) -> Any:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if value is not None and not (pair and all(is_number(one) for one in value)):
        raise ValueError(f"takes two numbers [low, high], got {format_value(value)}")
    return value


Bounds = Annotated[tuple[float, float] | None, BeforeValidator(_pair)]


class Range(Frozen):
    """One searched parameter: exactly one of ``log_uniform: [low, high]``, ``uniform: …``, ``choice: […]``."""

    log_uniform: Bounds = None
    uniform: Bounds = None
    choice: tuple[Scalar, ...] | None = Field(None, min_length=1)

    @field_validator("log_uniform", "uniform")
    @classmethod
    def _rises(cls, bounds: tuple[float, float] | None, field: ValidationInfo) -> tuple[float, float] | None:
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"low must lie below high, got [{bounds[0]:g}, {bounds[1]:g}]")
        if bounds and field.field_name == "log_uniform" and bounds[0] <= 0:
            raise ValueError(f"a logarithmic range starts above 0, got {bounds[0]:g}; raise it, or use uniform")
        return bounds

    @field_validator("choice")
    @classmethod
    def _distinct(cls, choice: tuple[Scalar, ...] | None) -> tuple[Scalar, ...] | None:
        if choice and len(set(choice)) != len(choice):
            raise ValueError(f"each value may stand once, got {format_value(choice)}")
        return choice

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        given = [name for name in ("log_uniform", "uniform", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"takes exactly one of log_uniform, uniform, choice, got {' and '.join(given) or 'none'}")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high), or None for a choice."""
        return self.log_uniform or self.uniform

    def extremes(self) -> tuple[Scalar, ...]:
        """The values a parameter's own bounds have to admit."""
        return self.bounds or self.choice or ()

    def contains(self, value: Scalar) -> bool:
        """Whether a search over this range could have proposed ``value``."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.extremes()
        return not isinstance(value, str) and float(low) <= value <= float(high)


class Pick(Frozen):
    """Which point of a Pareto front the repeats use.

    best: the metric that decides, among the points whose other metrics lie ``within`` so much of the front's best.
    """

    best: Selectable = Field(description="the metric that decides, such as val/adv_accuracy")
    within: dict[Selectable, Annotated[float, Strict(), Field(ge=0)]] = Field(default_factory=dict)


class Search(Frozen):
    """A search before the repeats: it maximizes validation metrics, or matches another arm's training loss.

    space: a range for each parameter; or grid: values for each, of which every combination is one trial, the last
    parameter's values changing fastest. trials: how many; a match ends sooner once it is found.

    maximize: a metric, or several, of whose Pareto front ``pick`` takes a point. sampler, pruner: Optuna's.

    match_loss_of: an arm. One parameter is searched over log_uniform, and matched for each combination of the choices
    of the others; of the matches, the best validation adversarial accuracy is taken. loss: what is matched, a mean
    over the last epoch: ``total`` of all terms, or ``ce`` of the cross-entropy alone. tolerance: how far off a loss
    may be and still match (null: the standard error of the reference over its seeds). anchor: an arm that trains as
    this one does at strength 0, whose loss shows the search where λ → 0 leads.
    """

    grid: Annotated[dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]], Field(min_length=1)] | None = None
    space: Annotated[dict[str, Range], Field(min_length=1)] | None = Field(None, validate_default=True)
    maximize: Selectable | tuple[Selectable, ...] | None = None
    pick: Pick | None = None
    match_loss_of: str | None = Field(None, validate_default=True)
    loss: Literal["total", "ce"] = "total"
    tolerance: Annotated[float, Strict()] | None = Field(None, gt=0)
    anchor: str | None = None
    trials: Integer = Field(12, ge=1)
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    pruner: Literal["none", "median"] = "none"

    @property
    def ranges(self) -> dict[str, Range]:
        """What is searched: ``space``, or each parameter of ``grid`` as a choice."""
        return self.space or {name: Range(choice=values) for name, values in (self.grid or {}).items()}

    @property
    def goals(self) -> tuple[Selectable, ...]:
        """The metrics to maximize; none of a match."""
        return self.maximize if isinstance(self.maximize, tuple) else (self.maximize,) if self.maximize else ()

    @property
    def matched_metric(self) -> str:
        """The metric that ``match_loss_of`` matches."""
        return {"total": TRAIN_LOSS, "ce": TRAIN_CE}[self.loss]

    @property
    def strength_name(self) -> str:
        """The parameter that a match finds."""
        return next(name for name, span in self.ranges.items() if span.log_uniform)

    def combinations(self) -> list[dict[str, Scalar]]:
        """Every combination of the values of all choices, the last parameter's changing fastest."""
        chosen = {name: span.choice for name, span in self.ranges.items() if span.choice}
        return [dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values())]

    def fixed_params(self, number: int) -> dict[str, Scalar]:
        """What no sampler decides of trial ``number``: of a grid and of a match's choices, the combinations in turn."""
        combinations = self.combinations() if self.grid or self.match_loss_of else [{}]
        return combinations[number % len(combinations)]

    def may_contain(self, params: Mapping[str, Scalar]) -> bool:
        """Whether the space holds the parameters, as far as is known: the range of a matched strength may be wider."""
        widened = self.strength_name if self.match_loss_of else None
        return all(
            name in params and (name == widened or span.contains(params[name])) for name, span in self.ranges.items()
        )

    @model_validator(mode="before")
    @classmethod
    def _trials_of_a_grid(cls, given: Any) -> Any:
        grid = given.get("grid") if isinstance(given, dict) else None
        if not isinstance(grid, dict) or not all(isinstance(values, (list, tuple)) for values in grid.values()):
            return given
        return {"trials": math.prod(len(values) for values in grid.values())} | given

    @field_validator("grid")
    @classmethod
    def _distinct(cls, grid: dict[str, tuple[Scalar, ...]] | None) -> dict[str, tuple[Scalar, ...]] | None:
        for name, values in (grid or {}).items():
            if len(set(values)) != len(values):
                raise ValueError(f"each value of {name} may stand once, got {format_value(values)}")
        return grid

    @field_validator("space")
    @classmethod
    def _one_way(cls, space: dict[str, Range] | None, before: ValidationInfo) -> dict[str, Range] | None:
        if "grid" in before.data and (before.data["grid"] is None) == (space is None):
            if space is None:
                raise ValueError("is required: {PARAMETER: {log_uniform: [low, high]}}, or grid: {PARAMETER: [values]}")
            raise ValueError("a search takes exactly one of space, grid, got both")
        return space

    @field_validator("match_loss_of")
    @classmethod
    def _one_goal(cls, arm: str | None, before: ValidationInfo) -> str | None:
        if "maximize" in before.data and (before.data["maximize"] is None) == (arm is None):
            got = "neither" if arm is None else "both"
            raise ValueError(f"a search takes exactly one of maximize, match_loss_of, got {got}")
        return arm

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        problems = [*self._of_a_grid(), *(self._of_a_match() if self.match_loss_of else self._of_a_maximum())]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _of_a_grid(self) -> Iterator[str]:
        if self.grid and self.trials != len(self.combinations()):
            yield f"a grid has a trial for each combination, {len(self.combinations())} here; drop trials"
        if self.grid and self.match_loss_of:
            yield "a match finds its strength between all values; give space: {PARAMETER: {log_uniform: …}}, no grid"

    def _of_a_match(self) -> Iterator[str]:
        space = self.space or {}
        kinds = [name for name, span in space.items() if span.log_uniform]
        if space and (len(kinds) != 1 or any(span.uniform for span in space.values())):
            yield (
                "matching a loss searches exactly one parameter over log_uniform: [low, high], others by choice; "
                f"got a space of {', '.join(space)}"
            )
        elif self.trials < 3 * (count := len(self.combinations())) and count > 1:
            yield f"a match is found for each of {count} combinations of choices; give at least {3 * count} trials"
        if self.pruner != "none":
            yield "a trial that matches a loss is never pruned; drop pruner"
        yield from self._foreign(("pick", "sampler"), "is of a search that maximizes")

    def _of_a_maximum(self) -> Iterator[str]:
        if isinstance(self.maximize, tuple) and (
            len(self.maximize) < 2 or len(set(self.maximize)) < len(self.maximize)
        ):
            yield f"maximize takes a metric, or several different ones, got {format_value(self.maximize)}"
        elif (self.pick is None) == (len(self.goals) > 1):
            rule = "pick: {best: METRIC, within: {METRIC: 0.01}}"
            yield (
                f"several metrics need a rule for the front: {rule}"
                if self.pick is None
                else "one metric needs no pick"
            )
        elif self.pick and not {self.pick.best, *self.pick.within} <= set(self.goals):
            yield f"pick names metrics of maximize, {', '.join(self.goals)}"
        if self.pruner != "none" and len(self.goals) > 1:
            yield "a pruner looks at one metric; drop it, or maximize one"
        yield from self._foreign(("loss", "tolerance", "anchor"), "is of a search with match_loss_of")

    def _foreign(self, names: tuple[str, ...], whose: str) -> Iterator[str]:
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                yield f"{name} {whose}; drop {name}"
