"""The settings of a search: ranges of parameters, goals, trials."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo, field_validator, model_validator

from tune_interpreg.study.fields import Frozen, Integer, Number, Scalar, check_distinct, format_value, is_number
from tune_interpreg.study.metric_names import (
    LEARNING_RATE,
    MATCHABLE,
    SAMPLES_PER_SECOND,
    TRAIN_CE,
    TRAIN_LOSS,
    VAL_ADV_ACCURACY,
    Selectable,
)
from tune_interpreg.study.notation import suggest_number


def _check_whole_bounds(value: Any, field: ValidationInfo) -> Any:
    checked = _check_bounds(value, field)
    if checked is not None and not all(isinstance(bound, int) for bound in checked):
        raise ValueError(f"takes two whole numbers [low, high], got {format_value(value)}")
    return checked


def _check_bounds(value: Any, field: ValidationInfo) -> Any:
    if value is None:
        return None
    if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))):
        raise ValueError(f"takes two numbers [low, high], got {format_value(value)}{suggest_number(value)}")
    if not value[0] < value[1]:
        raise ValueError(f"low must lie below high, got {format_value(value)}")
    if field.field_name in ("log_uniform", "log_int") and value[0] <= 0:
        other = field.field_name.removeprefix("log_")
        raise ValueError(f"a logarithmic range starts above 0, got {value[0]:g}; raise it, or use {other}")
    return value


def _check_value(value: Any) -> Any:
    if not (is_number(value) or isinstance(value, (str, bool))):
        raise ValueError(f"takes a number, text, true or false, got {format_value(value)}")
    return value


#: A value of a searched parameter. Truth values belong to settings such as training.nesterov.
Searched = Annotated[bool | float | int | str, BeforeValidator(_check_value)]
Values = Annotated[tuple[Searched, ...], Field(min_length=1), AfterValidator(check_distinct)]
Bounds = Annotated[tuple[float, float] | None, BeforeValidator(_check_bounds)]
WholeBounds = Annotated[tuple[int, int] | None, BeforeValidator(_check_whole_bounds)]


class Range(Frozen):
    """The values of a searched parameter: exactly one of log_uniform, uniform, log_int, int and choice."""

    KINDS: ClassVar = ("log_uniform", "uniform", "log_int", "int", "choice")

    log_uniform: Bounds = Field(None, description="[low, high], uniform in the logarithm; low > 0.")
    uniform: Bounds = Field(None, description="[low, high], uniform.")
    log_int: WholeBounds = Field(None, description="[low, high], whole numbers, uniform in the logarithm; low > 0.")
    int: WholeBounds = Field(None, description="[low, high], whole numbers.")
    choice: Values | None = Field(None, description="A list of values.")
    step: Annotated[float, Strict()] | None = Field(
        None, gt=0, description="Distance between the values of uniform or int, from low to high. null: any, for int 1."
    )

    @model_validator(mode="after")
    def _check_together(self) -> Range:
        kinds = [name for name in self.KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"takes exactly one of {', '.join(self.KINDS)}, got {' and '.join(kinds) or 'none'}")
        if self.step is not None:
            self._check_step(kinds[0], self.step)
        return self

    def _check_step(self, kind: str, step: float) -> None:
        bounds = self.uniform or self.int
        if bounds is None:
            raise ValueError(f"step goes with uniform or int, got {kind}; drop step")
        if kind == "int" and step % 1:
            raise ValueError(f"step of whole numbers is a whole number, got {step:g}")
        steps = (bounds[1] - bounds[0]) / step
        if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
            last = bounds[0] + math.floor(steps) * step
            raise ValueError(f"steps of {step:g} from {bounds[0]:g} end at {last:g}; give [{bounds[0]:g}, {last:g}]")

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high), or None for a choice."""
        return self.log_uniform or self.uniform or self.log_int or self.int

    @property
    def is_logarithmic(self) -> bool:
        """True for a range that is uniform in the logarithm."""
        return (self.log_uniform or self.log_int) is not None

    @property
    def is_whole(self) -> bool:
        """True for a range of whole numbers."""
        return (self.log_int or self.int) is not None

    def middle(self) -> Scalar:
        """Return a value in the middle of the range, or of the list of choices."""
        if self.choice:
            return self.choice[len(self.choice) // 2]
        low, high = self.bounds or (0.0, 0.0)
        if self.is_logarithmic:
            middle = math.sqrt(low) * math.sqrt(high)
        else:
            steps = (high - low) / (self.step or 1)
            middle = low + (self.step * math.floor(steps / 2) if self.step else (high - low) / 2)
        return round(middle) if self.is_whole else middle

    def extremes(self) -> tuple[Scalar, ...]:
        """Return the values that decide whether a parameter admits the whole range: the bounds, or all choices."""
        return self.bounds or self.choice or ()

    def contains(self, value: Scalar, *, widened: bool = False) -> bool:
        """Return whether a search over this range can propose ``value``; ``widened``: over ``widest_bounds`` of it."""
        if self.bounds is None:
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.extremes()
            )
        if isinstance(value, (str, bool)) or (self.is_whole and value % 1):
            return False
        low, high = self.bounds
        if self.step:
            steps = (value - low) / self.step
            if abs(steps - round(steps)) > 1e-6:
                return False
        if widened:
            low, high = widest_bounds(self.bounds)
            low, high = low * (1 - 1e-9), high * (1 + 1e-9)  # a matched strength carries rounding errors
        return low <= value <= high


def widest_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the widest range of a match: the range, extended on both sides by half its logarithmic length."""
    low, high = bounds
    factor = math.sqrt(high) / math.sqrt(low)
    return max(low / factor, sys.float_info.min), min(high * factor, sys.float_info.max)


class Condition(Frozen):
    """The least value of a metric in the chosen trial: a number, or the mean of another arm less an allowance."""

    at_least: Number | None = Field(None, ge=0, le=1, description="The least value. null: within and of give it.")
    within: Number | None = Field(None, ge=0, le=1, description="Allowed distance below the mean of the arm in of.")
    of: str | None = Field(None, description="The arm to compare with: its mean over the repeats' seeds.")

    @model_validator(mode="after")
    def _check_one_kind(self) -> Condition:
        keys = [key for key in ("at_least", "within", "of") if getattr(self, key) is not None]
        if keys not in (["at_least"], ["within", "of"]):
            raise ValueError(f"takes at_least, or within and of, got {' and '.join(keys) or 'none'}")
        return self


def _check_matchable(metric: str) -> str:
    is_term = metric.startswith("train/") and metric not in ("train/", LEARNING_RATE, SAMPLES_PER_SECOND)
    if not is_term and metric not in MATCHABLE:
        terms = f"{TRAIN_LOSS}, {TRAIN_CE} or another term of the training loss"
        raise ValueError(f"takes {terms}, or one of {', '.join(MATCHABLE)}; got {format_value(metric)}")
    return metric


class Matching(Frozen):
    """The metric of another arm that a search matches."""

    arm: str = Field(description="The arm to match.")
    metric: Annotated[str, AfterValidator(_check_matchable)] = Field(
        description="The metric, a mean over that arm's seeds: train/loss, train/ce or another term of the training"
        " loss (means over the last epoch), grad_norm/label, grad_norm/other, val/accuracy, val/adv_accuracy, or a"
        " measure of interpretability such as val/alignment."
    )
    direction: Literal["rising", "falling"] | None = Field(
        None, description="Whether the metric rises or falls with the strength. null: as the first trials show."
    )

    @property
    def is_judged(self) -> bool:
        """True for a metric that a judgment measures, not the training itself."""
        return not self.metric.startswith("train/")


def _check_maximize(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    first = value[0] if len(value) == 1 else VAL_ADV_ACCURACY
    others = ", ".join(f"{other}: {{within: 0.005, of: ARM}}" for other in value if other != first)
    where = f", and bound the others by where: {{{others}}}" if others else ""
    raise ValueError(f"takes one metric, got {format_value(value)}; write maximize: {first}{where}")


def _check_pick(value: Any, field: ValidationInfo) -> None:
    if value is not None and "maximize" in field.data:  # otherwise the message about maximize says what to write
        raise ValueError("is no key any more; a search maximizes one metric, and where bounds others; drop pick")


def _default_trials(section: dict[str, Any]) -> int:
    """Return the number of a grid's combinations, or 12."""
    grid = section.get("grid")
    return math.prod(map(len, grid.values())) if grid else 12


class Search(Frozen):
    """A search before the repeats, over space or grid, that maximizes a metric or matches another arm's."""

    grid: Annotated[dict[str, Values], Field(min_length=1)] | None = Field(
        None,
        description="Values for each parameter, as in space. Every combination is a trial; the last parameter changes"
        " fastest.",
    )
    space: Annotated[dict[str, Range], Field(min_length=1)] | None = Field(
        None,
        validate_default=True,
        description="A range for each parameter of the method, or setting with a dot: training.lr, attack.eps (of the"
        " attack in training), model.OPTION, data.train_limit, targets.sigma (each trial then has maps of its own).",
    )
    maximize: Annotated[Selectable | None, BeforeValidator(_check_maximize)] = Field(
        None, description="The validation metric to maximize."
    )
    where: dict[Selectable, Condition] = Field(
        default_factory=dict,
        description="The least values of other metrics in the chosen trial, by metric, such as {val/accuracy: {within:"
        " 0.005, of: standard}}. If no trial satisfies all, the one with the least violation is chosen, and the tables"
        " say so.",
    )
    pick: Annotated[None, BeforeValidator(_check_pick)] = Field(None, exclude=True)  # null in stores of 0.1.0
    match: Matching | None = Field(
        None,
        description="The metric of another arm to match. The search finds one parameter over log_uniform, for each"
        " combination of the other parameters' choices. The repeats use the match with the best adversarial accuracy on"
        " validation data.",
    )
    match_loss_of: str | None = Field(
        None,
        validate_default=True,
        description="Short for match with this arm's training loss, which rises with the strength.",
    )
    loss: Literal["total", "ce"] = Field(
        "total",
        description="The loss that match_loss_of matches: train/loss (total), or only the cross-entropy train/ce.",
    )
    tolerance: Annotated[float, Strict()] | None = Field(
        None,
        gt=0,
        description="Largest difference that counts as a match. null: the standard error of the other arm's metric over"
        " its seeds.",
    )
    anchor: str | None = Field(
        None, description="An arm that trains as this one does at strength 0; its loss is the limit λ → 0. null: none."
    )
    trials: Integer = Field(
        default_factory=_default_trials,
        ge=1,
        description="Number of trials. A match stops earlier once it is found; a grid needs no number.",
    )
    epochs: Integer | None = Field(
        None,
        ge=1,
        description="Epochs of each trial, to save time, for maximize. Repeats train as long as the arm says. null: as"
        " the repeats.",
    )
    train_limit: Integer | None = Field(
        None,
        ge=1,
        description="Training images of each trial, a stratified subset, to save time, for maximize. null: as the"
        " repeats.",
    )
    parallel: Integer = Field(
        4,
        ge=1,
        description="Trials under way at once, at most. Trial n starts once trials 0 … n − parallel are settled, and is"
        " proposed from exactly their results, so that the number of workers changes no result. The trials of a match"
        " go in rounds of so many: each round knows all earlier ones.",
    )
    seeds: Integer = Field(
        1,
        ge=1,
        description="Seeds of a trial, the first ones of the study. Its metrics are means over them, and a seed that"
        " diverges makes the trial diverge. The models of the chosen trial are repeats.",
    )
    sampler: Literal["tpe", "gp", "random"] = Field("tpe", description="Optuna's sampler, for maximize.")
    pruner: Literal["none", "median", "successive_halving", "hyperband"] = Field(
        "none", description="Optuna's pruner, for maximize. A trial is compared with trials 0 … n − parallel only."
    )

    @property
    def ranges(self) -> dict[str, Range]:
        """The searched parameters: ``space``, or each parameter of ``grid`` as a choice."""
        return self.space or {name: Range(choice=values) for name, values in (self.grid or {}).items()}

    @property
    def fidelity(self) -> dict[str, Scalar]:
        """The settings of trials that differ from those of the repeats; empty if there are none."""
        reduced = {"training.epochs": self.epochs, "data.train_limit": self.train_limit}
        return {name: value for name, value in reduced.items() if value is not None}

    @property
    def bounding_arms(self) -> tuple[str, ...]:
        """The arms that ``where`` compares with."""
        return tuple(condition.of for condition in self.where.values() if condition.of)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms that must finish before the search starts."""
        return (*self.matching_arms, *self.bounding_arms)

    @property
    def judged_arms(self) -> tuple[str, ...]:
        """The arms of these with judgments that the search waits for."""
        is_judged = self.matching is not None and self.matching.is_judged
        return (*(self.matching_arms if is_judged else ()), *self.bounding_arms)

    @property
    def matching(self) -> Matching | None:
        """The metric to match, in whichever form the study file has it; None for a search that maximizes."""
        if self.match_loss_of is None:
            return self.match
        metric = {"total": TRAIN_LOSS, "ce": TRAIN_CE}[self.loss]
        return Matching(arm=self.match_loss_of, metric=metric, direction="rising")

    @property
    def matching_arms(self) -> tuple[str, ...]:
        """The arms with the metric that a match reads: the matched arm and the anchor."""
        return (*([self.matching.arm] if self.matching else []), *([self.anchor] if self.anchor else []))

    @property
    def matched_metric(self) -> str:
        """The metric that the search matches; the training loss of a search that maximizes."""
        return self.matching.metric if self.matching else TRAIN_LOSS

    @property
    def strength_name(self) -> str:
        """The parameter that a match finds."""
        return next(name for name, span in self.ranges.items() if span.log_uniform)

    @property
    def attacks_trials(self) -> bool:
        """True if the validation of a trial includes an attack. A match by the loss alone needs none."""
        return self.maximize is not None or len(self.combinations()) > 1

    def combinations(self) -> list[dict[str, Scalar]]:
        """Return every combination of the values of all choices; the last parameter changes fastest."""
        choices = {name: span.choice for name, span in self.ranges.items() if span.choice}
        return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]

    def fixed_params(self, number: int) -> dict[str, Scalar]:
        """Return the parameters of trial ``number`` that a grid or a match takes from its combinations, in turn."""
        combinations = self.combinations() if self.grid or self.matching else [{}]
        return combinations[number % len(combinations)]

    def known_trials(self, number: int) -> int:
        """Return how many of the first trials must be settled before trial ``number``, which is proposed from them.

        A match goes in rounds: with results that are ``parallel`` trials old, it misses a cliff by up to 6 times as
        much after 12 trials.
        """
        if self.matching:
            return number - number % self.parallel
        return max(0, number - self.parallel + 1)

    def could_propose(self, params: Mapping[str, Scalar], number: int | None = None) -> bool:
        """Return whether the search could propose these parameters in trial ``number``, or choose them if it is None.

        A match may have widened the range of its strength (``widest_bounds``).
        """
        fixed = {} if number is None else self.fixed_params(number)
        return fixed.items() <= params.items() and all(
            name in params and span.contains(params[name], widened=self.matching is not None)
            for name, span in self.ranges.items()
        )

    @field_validator("space", "match_loss_of")
    @classmethod
    def _check_exactly_one(cls, value: Any, info: ValidationInfo) -> Any:
        names = {"space": ("grid",), "match_loss_of": ("maximize", "match")}[str(info.field_name)]
        values = {name: info.data.get(name) for name in names} | {str(info.field_name): value}
        got = [name for name, other in values.items() if other is not None]
        if len(got) != 1 and info.data.keys() >= set(names):  # others were refused already
            kinds = f"{', '.join(names)} and {info.field_name}"
            raise ValueError(f"a search takes exactly one of {kinds}, got {' and '.join(got) or 'none'}")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Search:
        problems = list(self._match_problems() if self.matching else self._goal_problems())
        if self.grid and self.trials != len(self.combinations()):
            problems.append(f"a grid has one trial per combination, {len(self.combinations())} here; drop trials")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _match_problems(self) -> Iterator[str]:
        logarithmic = [name for name, span in self.ranges.items() if span.log_uniform]
        count = len(self.combinations())
        if len(logarithmic) != 1 or any(span.bounds and not span.log_uniform for span in self.ranges.values()):
            rule = "matching a loss searches exactly one parameter over log_uniform: [low, high], others by choice"
            yield f"{rule}; got {', '.join(self.ranges)}"
        elif count > 1 and self.trials < 3 * count:
            yield f"a match is searched for each of {count} combinations of choices; give at least {3 * count} trials"
        yield from self._unused_keys(("where", "sampler", "pruner"), "belongs to a search that maximizes")
        if self.match:
            yield from self._unused_keys(("loss",), "belongs to match_loss_of, and match names its metric")
        rule = "would match the loss of another training: a shorter one, or one on fewer images, ends at another loss"
        yield from self._unused_keys(("epochs", "train_limit"), rule)

    def _goal_problems(self) -> Iterator[str]:
        if self.maximize in self.where:
            yield f"{self.maximize} is maximized; drop it from where"
        if self.pruner != "none" and "training.epochs" in self.ranges:
            yield "a pruner compares trials of equal length; drop pruner, or drop training.epochs from the space"
        for name in self.fidelity.keys() & self.ranges.keys():
            yield f"{name} is searched, and {name.partition('.')[2]} sets it for all trials; drop one of these"
        yield from self._unused_keys(("loss", "tolerance", "anchor"), "belongs to a search that matches")

    def _unused_keys(self, names: tuple[str, ...], rule: str) -> Iterator[str]:
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                yield f"{name} {rule}; drop {name}"
