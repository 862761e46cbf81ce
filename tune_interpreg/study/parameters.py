"""The parameters of methods, and the only place that fills in their defaults."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict

from tune_interpreg import registry
from tune_interpreg.study.config import Arm, Study
from tune_interpreg.study.fields import Frozen, Scalar, format_value, is_number


class Parameter(Frozen):
    """A method's hyperparameter: its default (None: must be given or searched), its bounds or choices, its meaning.

    integer: it counts something, and takes whole numbers only.
    """

    help: str
    default: Scalar | None = None
    low: float = -math.inf
    high: float = math.inf
    integer: bool = False
    choices: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    def find_problem(self, value: Any) -> str | None:
        """Why ``value`` is refused, or None."""
        if self.choices:
            return (
                None if value in self.choices else f"takes one of {', '.join(self.choices)}, got {format_value(value)}"
            )
        if not is_number(value):
            return f"takes a number, got {format_value(value)}"
        fits = abs(value) <= sys.float_info.max and self.low <= value <= self.high
        if not fits or (self.integer and not isinstance(value, int)):
            return f"takes {self._range()}, got {format_value(value)}"
        return None

    def _range(self) -> str:
        lowest = f" of at least {self.low:g}" if math.isfinite(self.low) else ""
        highest = f" of at most {self.high:g}" if math.isfinite(self.high) else ""
        kind = "whole" if self.integer else "finite"
        return f"a {kind} number{' and'.join(filter(None, (lowest, highest)))}"


def with_defaults(parameters: Mapping[str, Parameter], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return ``values`` and the default of each of a method's ``parameters`` that has one and is not in ``values``."""
    defaults = {name: parameter.default for name, parameter in parameters.items() if parameter.default is not None}
    return defaults | dict(values)


def resolve_study(study: Study) -> Study:
    """Return the study with the defaults of its methods' parameters, except those that an arm sets or searches.

    A reader of the result needs none of the methods' code.
    """
    return study.model_copy(update={"arms": {name: _resolve_arm(arm) for name, arm in study.arms.items()}})


def _resolve_arm(arm: Arm) -> Arm:
    searched = arm.search.ranges if arm.search else {}
    params = with_defaults(registry.load_method(arm.method).parameters, arm.params)
    return arm.model_copy(
        update={"params": {name: value for name, value in params.items() if name in arm.params or name not in searched}}
    )
