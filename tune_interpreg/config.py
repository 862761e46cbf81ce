"""What a study is: frozen, checked on construction, written beside every result.

The classes are the keys of a study file, top to bottom; ``study_file`` reads YAML into them and reports
every problem with its line.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

Param = float | int | str

#: Numbers and flags that are written as such: neither text nor a truth value stands for a number.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]

#: Quantities a search may maximize. All are read off the validation split; test data is out of a search's reach.
Selectable = Literal["val/accuracy", "val/adv_accuracy"]


def shown(value: Any) -> str:
    """``value`` as a study file would write it, in at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scalar(value: Any) -> Any:
    if not (_is_number(value) or isinstance(value, str)):
        raise ValueError(f"takes a number or text, got {shown(value)}")
    return value


def _pair(value: Any) -> Any:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if value is not None and not (pair and all(_is_number(one) for one in value)):
        raise ValueError(f"takes two numbers [low, high], got {shown(value)}")
    return value


Given = Annotated[Param, BeforeValidator(_scalar)]
Bounds = Annotated[tuple[float, float] | None, BeforeValidator(_pair)]


class Frozen(BaseModel):
    """Base of all configuration: immutable, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Frozen):
    """Which images, and how many of them.

    name: a registered data set. train_limit: training images kept, a stratified subset (null: all).
    validation: images held out of the training data (null: the data set's default).
    test_limit: test images used in the final evaluation, a stratified subset (null: all).
    root: folder of the files; it does not determine a result, so it is no part of a key.
    """

    name: str = "digits"
    train_limit: Whole | None = Field(None, ge=1)
    validation: Whole | None = Field(None, ge=1)
    test_limit: Whole | None = Field(None, ge=1)
    root: str | None = None


class Training(Frozen):
    """SGD with momentum; the rate is multiplied by ``lr_decay`` each ``decay_every`` epochs (Sections 4.1, 4.2)."""

    epochs: Whole = Field(30, ge=1)
    batch_size: Whole = Field(64, ge=1)
    lr: Number = Field(0.01, gt=0)
    momentum: Number = Field(0.9, ge=0, lt=1)
    lr_decay: Number = Field(0.1, gt=0, le=1)
    decay_every: Whole = Field(10, ge=1)


class Attack(Frozen):
    """Projected gradient descent (Eq. 5, 6). ``eps`` and ``step_size`` are radii in ``norm``, pixels in [0, 1].

    step_size: null stands for 2.5·eps/steps.
    """

    norm: Literal["l2", "linf"] = "l2"
    eps: Number = Field(1.5, gt=0)
    steps: Whole = Field(40, ge=1)
    step_size: Number | None = Field(None, gt=0)

    @property
    def step(self) -> float:
        """The length of one step, in pixels."""
        return self.step_size if self.step_size is not None else 2.5 * self.eps / self.steps


class Evaluation(Frozen):
    """How models are judged.

    steps, step_size: the attack of the evaluation, else as in training's ``attack`` (norm and eps always are).
    batch_size: images per batch. adversarial_every: epochs between adversarial validations within a training
    (0: only after the last). gradient_samples: training images whose gradient norms are averaged for Table 3
    (null: all).
    """

    steps: Whole | None = Field(None, ge=1)
    step_size: Number | None = Field(None, gt=0)
    batch_size: Whole = Field(500, ge=1)
    adversarial_every: Whole = Field(0, ge=0)
    gradient_samples: Whole | None = Field(None, ge=1)


class Resources(Frozen):
    """What one trial asks of the cluster. With a GPU, all seeds of a repeat train in one trial."""

    cpus: Number = Field(1, gt=0)
    gpus: Number = Field(0, ge=0)


class Targets(Frozen):
    """SmoothGrad maps of a teacher (Eq. 4): ``sigma`` is the noise's standard deviation in pixels, ``samples`` N.

    permute: each map's values randomly permuted within the map, fixed once from the trial's seed.
    """

    teacher: str = Field(description="the arm whose maps are the targets")
    sigma: Number = Field(0.15, ge=0)
    samples: Whole = Field(50, ge=1)
    permute: Flag = False


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
    """A search before the repeats: it maximizes a validation metric, or matches another arm's training loss."""

    space: dict[str, Range] = Field(min_length=1, description="{PARAMETER: {log_uniform: [low, high]}}")
    maximize: Selectable | None = None
    match_loss_of: str | None = Field(None, validate_default=True)
    trials: Whole = Field(12, ge=1)
    pruner: Literal["none", "median"] = "none"

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

    @field_validator("pruner")
    @classmethod
    def _prunes(cls, pruner: str, before: ValidationInfo) -> str:
        if pruner != "none" and before.data.get("match_loss_of") is not None:
            raise ValueError("a trial that matches a loss is never pruned; drop pruner")
        return pruner


class Arm(Frozen):
    """A row of the tables: who trains, against what, and what is searched. Further keys are the method's parameters."""

    method: str = Field(description="a training method, such as standard")
    title: str | None = None
    targets: Targets | None = None
    search: Search | None = None
    params: dict[str, Given] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_params(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "params" in given:
            return given
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        return own | {"params": {key: value for key, value in given.items() if key not in own}}

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms that must come first: the teacher, and the one whose loss is matched."""
        teacher = (self.targets.teacher,) if self.targets else ()
        match = self.search.match_loss_of if self.search else None
        return teacher + ((match,) if match else ())


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Study(Frozen):
    """A whole study: one setting, and the arms that are compared under it."""

    name: str = "study"
    data: Annotated[Data, BeforeValidator(_named)] = Data()
    model: str = "digits_cnn"
    training: Training = Training()
    attack: Attack = Attack()
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()
    seeds: tuple[Whole, ...] = Field((0, 1, 2, 3, 4), min_length=1)
    arms: dict[str, Arm] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not name.strip(". ") or set(name) & set("/\\\0"):
            raise ValueError(f"takes a name that a folder can have, without slashes, got {shown(name)}")
        return name

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"each seed may stand once, got {list(seeds)}")
        return seeds

    @property
    def evaluation_attack(self) -> Attack:
        """The attack that models are judged by: training's norm and radius, the evaluation's steps."""
        own = self.evaluation
        steps = own.steps or self.attack.steps
        same = steps == self.attack.steps
        step_size = own.step_size or (self.attack.step_size if same else None)
        return self.attack.model_copy(update={"steps": steps, "step_size": step_size})

    def setting(self) -> dict[str, Any]:
        """What all trials share; a store holds trials of one setting only."""
        shared = self.model_dump(mode="json", exclude={"name", "resources", "seeds", "arms"})
        shared["data"].pop("root")
        return shared


class Parameter(Frozen):
    """A method's hyperparameter: its default (None: must be given or searched), its bounds or choices, its meaning."""

    help: str
    default: Param | None = None
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    def problem(self, value: Any) -> str | None:
        """Why ``value`` is refused, or None."""
        if self.choices:
            return None if value in self.choices else f"takes one of {', '.join(self.choices)}, got {shown(value)}"
        if not _is_number(value):
            return f"takes a number, got {shown(value)}"
        if not (abs(value) <= sys.float_info.max and self.low <= value <= self.high):
            return f"takes {self._range()}, got {shown(value)}"
        return None

    def _range(self) -> str:
        lowest = f" of at least {self.low:g}" if math.isfinite(self.low) else ""
        highest = f" of at most {self.high:g}" if math.isfinite(self.high) else ""
        return f"a finite number{' and'.join(filter(None, (lowest, highest)))}"
