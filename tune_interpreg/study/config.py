"""What a study is: frozen, checked on construction, written beside every result.

The classes are the keys of a study file, top to bottom; ``study_file`` reads YAML into them and reports
every problem with its line.
"""

from __future__ import annotations

import math
from graphlib import TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tune_interpreg.study.fields import (
    Boolean,
    Frozen,
    Integer,
    Number,
    OptionValue,
    Scalar,
    format_value,
    gather_extra_keys,
)
from tune_interpreg.study.space import Search

#: Seeds name files.
Seed = Annotated[Integer, Field(ge=-(2**63), lt=2**63)]


class Named(Frozen):
    """A section that names something registered; the bare name stands for it, and further keys are its options."""

    name: str
    options: dict[str, OptionValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, given: Any) -> Any:
        return gather_extra_keys({"name": given} if isinstance(given, str) else given, cls.model_fields, "options")


class Data(Named):
    """Which images, and how many of them. Further keys are the data set's own options.

    name: a registered data set. train_limit: training images kept, a stratified subset (null: all).
    validation: images held out of the training data (null: the data set's default).
    test_limit: test images used in the final evaluation, a stratified subset (null: all).
    root: folder of the files; it does not determine a result, so it is no part of a key.
    """

    name: str = "digits"
    train_limit: Integer | None = Field(None, ge=1)
    validation: Integer | None = Field(None, ge=1)
    test_limit: Integer | None = Field(None, ge=1)
    root: str | None = None


class Model(Named):
    """Which network: a registered one. Further keys are its own options, such as cifar_cnn's ``fc_relu``."""

    name: str = "digits_cnn"


class Augment(Frozen):
    """Random changes of each training image and, jointly, of its target map; drawn anew whenever a batch is drawn.

    flip: left to right, with probability one half. crop: each side is padded by so many zeros, and a window of the
    image's own size cut out at random.
    """

    flip: Boolean = False
    crop: Integer = Field(0, ge=0)


class Training(Frozen):
    """SGD with momentum (Sections 4.1, 4.2).

    schedule: ``step`` multiplies the rate by ``lr_decay`` each ``decay_every`` epochs; ``cosine`` lowers it from ``lr``
    towards 0 along half a cosine over all epochs, once an epoch. augment: null trains on the images as they are.
    matmul: how a GPU multiplies while it trains: in ``float32``, or faster in ``tf32``, with 10 bits of mantissa.
    """

    epochs: Integer = Field(30, ge=1)
    batch_size: Integer = Field(64, ge=1)
    lr: Number = Field(0.01, gt=0)
    momentum: Number = Field(0.9, ge=0, lt=1)
    lr_decay: Number = Field(0.1, gt=0, le=1)
    decay_every: Integer = Field(10, ge=1)
    schedule: Literal["step", "cosine"] = "step"
    augment: Augment | None = None
    matmul: Literal["float32", "tf32"] = "float32"

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr * self.lr_decay ** (epoch // self.decay_every)


#: In what a network multiplies where its results may be rounded: bfloat16 keeps 8 bits of float32's mantissa of 24.
Precision = Literal["float32", "bfloat16"]


class Attack(Frozen):
    """Projected gradient descent (Eq. 5, 6). ``eps`` and ``step_size`` are radii in ``norm``, pixels in [0, 1].

    step_size: null stands for 2.5·eps/steps. direction: a step follows the gradient over its ``l2`` norm, or its
    ``sign`` (null: l2 under l2, sign under linf). start: ``sphere`` projects uniform pixels to the ball, so that most
    starts lie at its surface; ``ball`` draws uniformly from within it. precision: in what the network multiplies while
    training attacks it: ``bfloat16`` is less exact, and 1.4 to 1.8 times as fast on a CPU that multiplies it fast (AMD
    EPYC), but slower on one that does not (Intel Xeon without AMX); models are judged in ``float32`` whatever it is.
    """

    norm: Literal["l2", "linf"] = "l2"
    eps: Number = Field(1.5, gt=0)
    steps: Integer = Field(40, ge=1)
    step_size: Number | None = Field(None, gt=0)
    direction: Literal["l2", "sign"] | None = None
    start: Literal["sphere", "ball"] = "sphere"
    precision: Precision = "float32"

    @property
    def step_length(self) -> float:
        """The length of one step, in pixels."""
        return self.step_size if self.step_size is not None else 2.5 * self.eps / self.steps


class Evaluation(Frozen):
    """How models are judged.

    steps, step_size: the attack of the evaluation, else as in training's ``attack`` (norm and eps always are).
    restarts: starts of the attack; a sample counts as broken if one of them breaks it. autoattack: test images that
    the AutoAttack ensemble attacks as well (null: none; needs the extra ``autoattack``).
    batch_size: images per batch. adversarial_every: epochs between adversarial validations within a training
    (0: only after the last). gradient_samples: training images whose gradient norms are averaged for Table 3
    (null: all).
    """

    steps: Integer | None = Field(None, ge=1)
    step_size: Number | None = Field(None, gt=0)
    restarts: Integer = Field(1, ge=1)
    autoattack: Integer | None = Field(None, ge=1)
    batch_size: Integer = Field(500, ge=1)
    adversarial_every: Integer = Field(0, ge=0)
    gradient_samples: Integer | None = Field(None, ge=1)


class Checks(Frozen):
    """Whether each repeat's adversarial accuracy can be believed: eight checks of its model, nine with AutoAttack,
    which change no metric.

    images: validation images that they rest on, a stratified subset (all, where there are fewer). autoattack: those of
    them that the AutoAttack ensemble attacks as well (null: none; needs the extra ``autoattack``).
    """

    images: Integer = Field(100, ge=1)
    autoattack: Integer | None = Field(None, ge=1)


Permutation = Literal["fixed", "redrawn"]


def _permutation(value: Any) -> Any:
    return ("fixed" if value else None) if isinstance(value, bool) else value


class Resources(Frozen):
    """What one trial asks of the cluster. With a GPU, all seeds of a repeat train in one trial."""

    cpus: Number = Field(1, gt=0)
    gpus: Number = Field(0, ge=0)

    @field_validator("gpus")
    @classmethod
    def _shares_one_or_takes_whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus % 1:
            raise ValueError(f"takes a part of one GPU or whole ones, got {format_value(gpus)}")
        return gpus


class MapSettings(Frozen):
    """What raw SmoothGrad maps are made of (Eq. 4), but for the teacher.

    sigma: the noise's standard deviation, in pixels. samples: N. clamp: noisy images are clamped to [0, 1].
    include_clean: the clean image is one more sample. sign: the mean is of |g| (``abs``) or of g (``signed``).
    output: g is the gradient of the label's logit, or of its probability. precision: in what the teacher multiplies, as
    in ``attack``; maps are float32 in either.
    """

    sigma: Number = Field(0.15, ge=0)
    samples: Integer = Field(50, ge=1)
    clamp: Boolean = False
    include_clean: Boolean = False
    sign: Literal["abs", "signed"] = "abs"
    output: Literal["logits", "probabilities"] = "logits"
    precision: Precision = "float32"

    @property
    def map_settings(self) -> MapSettings:
        """These settings alone, of a class that adds to them."""
        return MapSettings(**{name: getattr(self, name) for name in MapSettings.model_fields})


class Targets(MapSettings):
    """The maps that an arm trains towards, of another arm's model.

    teachers: ``shared`` takes the teacher's first seed for all seeds of the arm, ``per_seed`` for each seed the
    teacher's own. permute: each map's values randomly permuted within the map: ``fixed`` (or true) once from the
    trial's seed, ``redrawn`` whenever a batch is drawn.
    """

    teacher: str = Field(description="the arm whose maps are the targets")
    teachers: Literal["shared", "per_seed"] = "shared"
    permute: Annotated[Permutation | None, BeforeValidator(_permutation)] = None


class Arm(Frozen):
    """A row of the tables: who trains, against what, and what is searched. Further keys are the method's parameters."""

    method: str = Field(description="a training method, such as standard")
    title: str | None = None
    targets: Targets | None = None
    search: Search | None = None
    params: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_params(cls, given: Any) -> Any:
        return gather_extra_keys(given, cls.model_fields, "params")

    @field_validator("method")
    @classmethod
    def _spaced(cls, method: str) -> str:
        return " + ".join(part.strip() for part in method.split("+"))

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms that must come first: the teacher, the one whose loss is matched, and the one at strength 0."""
        teacher = self.targets.teacher if self.targets else None
        others = (self.search.match_loss_of, self.search.anchor) if self.search else ()
        return tuple(name for name in (teacher, *others) if name)


class Study(Frozen):
    """A whole study: one setting, and the arms that are compared under it."""

    name: str = "study"
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    attack: Attack = Attack()
    evaluation: Evaluation = Evaluation()
    checks: Checks | None = Checks()
    resources: Resources = Resources()
    seeds: tuple[Seed, ...] = Field((0, 1, 2, 3, 4), min_length=1)
    arms: dict[str, Arm] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not name.strip(". ") or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > 200:
            rule = "takes a name that a folder can have, printable, without slashes, at most 200 bytes"
            raise ValueError(f"{rule}, got {format_value(name)}")
        return name

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"each seed may stand once, got {list(seeds)}")
        return seeds

    @property
    def evaluation_attack(self) -> Attack:
        """The attack that models are judged by: training's norm and radius, the evaluation's steps, in float32."""
        own = self.evaluation
        steps = own.steps or self.attack.steps
        same = steps == self.attack.steps
        step_size = own.step_size or (self.attack.step_size if same else None)
        return self.attack.model_copy(update={"steps": steps, "step_size": step_size, "precision": "float32"})

    def arms_in_order(self) -> list[str]:
        """The arms, each after those that it needs."""
        order = TopologicalSorter({name: arm.needs for name, arm in self.arms.items()}).static_order()
        return [name for name in order if name in self.arms]

    def setting(self) -> dict[str, Any]:
        """What all trials share; a store holds trials of one setting only."""
        shared = self.model_dump(mode="json", exclude={"name", "checks", "resources", "seeds", "arms"})
        shared["data"].pop("root")
        return shared
