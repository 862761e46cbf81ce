"""What a search may try: ranges, the goal, and the parameters that methods take."""

from __future__ import annotations

import math
import sys
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from tune_interpreg.fields import Frozen, Given, Param, Whole, is_number, shown

#: Quantities a search may maximize. All are read off the validation split; test data is out of a search's reach.
Selectable = Literal["val/accuracy", "val/adv_accuracy"]


def _pair(value: Any) -> Any:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if value is not None and not (pair and all(is_number(one) for one in value)):
        raise ValueError(f"takes two numbers [low, high], got {shown(value)}")
    return value


Bounds = Annotated[tuple[float, float] | None, BeforeValidator(_pair)]


class Range(Frozen):
    """One searched parameter: exactly one of ``log_uniform: [low, high]``, ``uniform: …``, ``choice: […]``."""

    log_uniform: Bounds = None
    uniform: Bounds = None
    choice: tuple[Given, ...] | None = Field(None, min_length=1)

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
    def _distinct(cls, choice: tuple[Param, ...] | None) -> tuple[Param, ...] | None:
        if choice and len(set(choice)) != len(choice):
            raise ValueError(f"each value may stand once, got {shown(choice)}")
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

    def extremes(self) -> tuple[Param, ...]:
        """The values a parameter's own bounds have to admit."""
        return self.bounds or self.choice or ()

    def holds(self, value: Param) -> bool:
        """Whether a search over this range could have proposed ``value``."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.extremes()
        return not isinstance(value, str) and float(low) <= value <= float(high)


class Search(Frozen):
    """A search before the repeats: it maximizes a validation metric, or matches another arm's training loss.

    loss: what is matched, a mean over the last epoch: ``total`` of all terms, or ``ce`` of the cross-entropy alone.
    """

    space: dict[str, Range] = Field(min_length=1, description="{PARAMETER: {log_uniform: [low, high]}}")
    maximize: Selectable | None = None
    match_loss_of: str | None = Field(None, validate_default=True)
    loss: Literal["total", "ce"] = "total"
    trials: Whole = Field(12, ge=1)
    pruner: Literal["none", "median"] = "none"

    @property
    def matched(self) -> str:
        """The metric that ``match_loss_of`` matches."""
        return {"total": "train/loss", "ce": "train/ce"}[self.loss]

    @field_validator("match_loss_of")
    @classmethod
    def _one_goal(cls, arm: str | None, before: ValidationInfo) -> str | None:
        if "maximize" in before.data and (before.data["maximize"] is None) == (arm is None):
            got = "neither" if arm is None else "both"
            raise ValueError(f"a search takes exactly one of maximize, match_loss_of, got {got}")
        space = before.data.get("space")
        if arm is not None and space and (len(space) != 1 or next(iter(space.values())).log_uniform is None):
            raise ValueError(
                "matching a loss searches exactly one parameter, over log_uniform: [low, high]; "
                f"got a space of {', '.join(space)}"
            )
        return arm

    @field_validator("loss")
    @classmethod
    def _is_matched(cls, loss: str, before: ValidationInfo) -> str:
        if loss != "total" and before.data.get("maximize") is not None:
            raise ValueError("is the loss that match_loss_of matches; a search that maximizes takes none: drop loss")
        return loss

    @field_validator("pruner")
    @classmethod
    def _prunes(cls, pruner: str, before: ValidationInfo) -> str:
        if pruner != "none" and before.data.get("match_loss_of") is not None:
            raise ValueError("a trial that matches a loss is never pruned; drop pruner")
        return pruner


class Parameter(Frozen):
    """A method's hyperparameter: its default (None: must be given or searched), its bounds or choices, its meaning.

    whole: it counts something, and takes whole numbers only.
    """

    help: str
    default: Param | None = None
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    choices: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    def problem(self, value: Any) -> str | None:
        """Why ``value`` is refused, or None."""
        if self.choices:
            return None if value in self.choices else f"takes one of {', '.join(self.choices)}, got {shown(value)}"
        if not is_number(value):
            return f"takes a number, got {shown(value)}"
        fits = abs(value) <= sys.float_info.max and self.low <= value <= self.high
        if not fits or (self.whole and not isinstance(value, int)):
            return f"takes {self._range()}, got {shown(value)}"
        return None

    def _range(self) -> str:
        lowest = f" of at least {self.low:g}" if math.isfinite(self.low) else ""
        highest = f" of at most {self.high:g}" if math.isfinite(self.high) else ""
        kind = "whole" if self.whole else "finite"
        return f"a {kind} number{' and'.join(filter(None, (lowest, highest)))}"
