"""The parameters of methods, and the only place that fills in their defaults."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from tune_interpreg import registry
from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.fields import Frozen, Scalar, format_value, is_number
from tune_interpreg.study.notation import suggest_number


class Parameter(Frozen):
    """A hyperparameter of a training method."""

    help: str = Field(description="Meaning, for drafts, tables of options and error messages.")
    default: Scalar | None = Field(None, description="Default. None: an arm must set or search the parameter.")
    low: float = Field(-math.inf, description="Smallest value.")
    high: float = Field(math.inf, description="Largest value.")
    integer: bool = Field(False, description="Take whole numbers only.")
    choices: tuple[str, ...] = Field((), description="The allowed texts, for a parameter that is no number.")
    implicit: bool = Field(
        False,
        description="A recipe holds the parameter only if its arm sets or searches it. For a new parameter of an"
        " existing method: results of older versions keep their keys.",
    )

    model_config = ConfigDict(allow_inf_nan=True)

    @property
    def required(self) -> bool:
        """True if an arm must set or search the parameter."""
        return self.default is None

    def find_problem(self, value: Any) -> str | None:
        """Return why ``value`` is refused, or None."""
        if self.choices:
            allowed, suggestion = value in self.choices, ""
        else:
            suggestion = suggest_number(value)
            allowed = is_number(value) and abs(value) <= sys.float_info.max and self.low <= value <= self.high
            allowed = allowed and (isinstance(value, int) or not self.integer)
        return None if allowed else f"takes {self.allowed_values()}, got {format_value(value)}{suggestion}"

    def allowed_values(self) -> str:
        """Return the allowed values in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        lowest = f" of at least {self.low:g}" if math.isfinite(self.low) else ""
        highest = f" of at most {self.high:g}" if math.isfinite(self.high) else ""
        kind = "whole" if self.integer else "finite"
        return f"a {kind} number{' and'.join(filter(None, (lowest, highest)))}"


def with_defaults(parameters: Mapping[str, Parameter], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return ``values``, and the default of every other one of a method's ``parameters`` that has a default."""
    defaults = {name: parameter.default for name, parameter in parameters.items() if parameter.default is not None}
    return defaults | dict(values)


def recipe_params(parameters: Mapping[str, Parameter], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return what a recipe holds: ``values``, and the defaults of all other parameters that are not implicit."""
    return with_defaults({name: item for name, item in parameters.items() if not item.implicit}, values)


def resolve_study(study: Study) -> Study:
    """Return the study with the defaults of its methods' parameters, so that readers do not need the methods' code."""
    return study.model_copy(update={"arms": {name: _resolve_arm(arm) for name, arm in study.arms.items()}})


def _resolve_arm(arm: Arm) -> Arm:
    searched = arm.search.ranges if arm.search else {}
    parameters = registry.load_method(arm.method).parameters
    fixed = {name: parameter for name, parameter in parameters.items() if name not in searched}
    return arm.model_copy(update={"params": recipe_params(fixed, arm.params)})
