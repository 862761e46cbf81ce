"""The sections of a study file: frozen and checked on construction.

``file.read`` reads YAML into these classes and reports every problem with its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from tune_interpreg.study.fields import (
    Boolean,
    Frozen,
    Integer,
    Number,
    OptionValue,
    Scalar,
    check_distinct,
    format_value,
)
from tune_interpreg.study.notation import suggest_flag
from tune_interpreg.study.overrides import complete_arms
from tune_interpreg.study.space import Search

#: Seeds of the repeats, unless a study gives others.
DEFAULT_SEEDS = (0, 1, 2, 3, 4)

#: Seeds are part of file names.
Seed = Annotated[Integer, Field(ge=-(2**63), lt=2**63)]

#: Number format of a network's multiplications: bfloat16 has 8 bits of mantissa, float32 has 24.
Precision = Literal["float32", "bfloat16"]

Permutation = Literal["fixed", "redrawn"]


def _check_entry_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise ValueError(f"takes letters, digits, _ . and - (it is part of metrics' names), at most 64, got {name!r}")
    return name


EntryName = Annotated[str, AfterValidator(_check_entry_name)]


class OpenSection(Frozen):
    """A section that takes additional keys, gathered in the field that ``ADDITIONAL`` names."""

    ADDITIONAL: ClassVar[str] = "options"

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, section: Any) -> Any:
        if isinstance(section, str) and "name" in cls.model_fields:
            section = {"name": section}
        if not isinstance(section, dict) or cls.ADDITIONAL in section:
            return section
        extra = {key: value for key, value in section.items() if key not in cls.model_fields}
        return {key: value for key, value in section.items() if key not in extra} | {cls.ADDITIONAL: extra}


class Data(OpenSection):
    """The data set and the number of images. A name alone is enough; additional keys are the data set's options."""

    name: str = Field("digits", description="Name of a registered data set.")
    options: dict[str, OptionValue] = Field(default_factory=dict)
    train_limit: Integer | None = Field(None, ge=1, description="Training images, a stratified subset. null: all.")
    validation: Integer | None = Field(
        None, ge=1, description="Images held out of the training data. null: the data set's default."
    )
    test_limit: Integer | None = Field(None, ge=1, description="Test images, a stratified subset. null: all.")
    root: str | None = Field(
        None, description="Folder of the data set's files. It does not influence results. null: the data set's default."
    )


class Model(OpenSection):
    """The network. A name alone is enough; additional keys are the model's options, such as cifar_cnn's fc_relu."""

    name: str = Field("digits_cnn", description="Name of a registered model.")
    options: dict[str, OptionValue] = Field(default_factory=dict)


class Augment(Frozen):
    """Random changes of each training image and, jointly, of its target map, drawn again for every batch."""

    flip: Boolean = Field(False, description="Flip left to right with probability 1/2.")
    crop: Integer = Field(
        0, ge=0, description="Pad each side with this number of zeros, then crop a random window of the original size."
    )


class Training(Frozen):
    """Training by SGD with momentum (Sections 4.1 and 4.2 of the paper), or by AdamW."""

    epochs: Integer = Field(30, ge=1, description="Passes through the training data.")
    batch_size: Integer = Field(64, ge=1, description="Images per step.")
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="PyTorch's SGD, or its AdamW with β = (0.9, 0.999) and ε = 1e-8."
    )
    lr: Number = Field(0.01, gt=0, description="Initial learning rate.")
    momentum: Number | None = Field(
        0.9, ge=0, lt=1, description="Momentum of sgd. null, and the only value, with adamw."
    )
    nesterov: Boolean = Field(False, description="Nesterov's momentum, for sgd.")
    weight_decay: Number = Field(
        0.0,
        ge=0,
        description="Decay δ of all trained parameters. sgd: δ·w is added to the gradient (an l2 penalty). adamw:"
        " weights shrink by lr · δ · w per step (decoupled).",
    )
    lr_decay: Number = Field(0.1, gt=0, le=1, description="Factor of the learning rate at each decay of schedule step.")
    decay_every: Integer = Field(10, ge=1, description="Epochs between two decays of schedule step.")
    schedule: Literal["step", "cosine"] = Field(
        "step",
        description="Learning rate per epoch. step: lr · lr_decay^⌊epoch/decay_every⌋. cosine: from lr towards 0 along"
        " half a cosine over all epochs.",
    )
    warmup_epochs: Integer = Field(
        0,
        ge=0,
        description="First epochs with a smaller learning rate: the schedule's times (epoch + 1)/(warmup_epochs + 1),"
        " constant within an epoch. Epochs count from 0, those of the warm-up too.",
    )
    augment: Augment | None = Field(None, description="Random changes of the training images. null: none.")
    matmul: Literal["float32", "tf32"] = Field(
        "float32", description="Format of matrix products on a GPU. tf32 is faster, with 10 bits of mantissa."
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_momentum(cls, section: Any) -> Any:
        is_adamw = isinstance(section, dict) and section.get("optimizer") == "adamw"
        return {"momentum": None} | section if is_adamw else section

    @model_validator(mode="after")
    def _check_together(self) -> Training:
        problems = []
        if self.optimizer == "adamw" and self.momentum is not None:
            problems.append(f"momentum belongs to sgd, got {self.momentum:g} with adamw; drop it, or use sgd")
        if self.optimizer == "adamw" and self.nesterov:
            problems.append("nesterov belongs to sgd, got adamw; drop it, or use sgd")
        if self.optimizer == "sgd" and self.momentum is None:
            problems.append("sgd takes a momentum, got null; give a number, 0 for none")
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            problems.append("nesterov needs a momentum above 0; raise momentum, or drop nesterov")
        if self.warmup_epochs >= self.epochs:
            rule = f"warmup_epochs must be less than the {self.epochs} epochs"
            problems.append(f"{rule}, got {self.warmup_epochs}; lower it")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        warmup = min(1.0, (epoch + 1) / (self.warmup_epochs + 1))
        if self.schedule == "cosine":
            return warmup * self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return warmup * self.lr * self.lr_decay ** (epoch // self.decay_every)


class Attack(Frozen):
    """Projected gradient descent (Eq. 5 and 6), in adversarial training and in the evaluation.

    Of these fields, the evaluation's strict attack uses norm, eps, steps and start. It has its own step sizes and takes
    the steepest direction.
    """

    norm: Literal["l2", "linf"] = Field("l2", description="Norm of the ball of allowed perturbations.")
    eps: Number = Field(
        1.5, gt=0, description="Radius ε of the ball, for pixels in [0, 1]. The default is for l2; linf takes up to 1."
    )
    steps: Integer = Field(40, ge=1, description="Number of steps.")
    step_size: Number | None = Field(None, gt=0, description="Length of a step, in norm. null: 2.5 · eps / steps.")
    direction: Literal["l2", "sign"] | None = Field(
        None,
        description="Direction of a step: the gradient over its l2 norm, or its sign. null: l2 for l2, sign for linf.",
    )
    start: Literal["sphere", "ball"] | None = Field(
        None,
        description="sphere: uniform pixels projected to the ball, mostly to its surface. ball: uniform in the ball."
        " null: sphere for l2, ball for linf, where the sphere is a weaker start.",
    )
    precision: Precision = Field(
        "float32",
        description="Format of the network's products while training attacks it. bfloat16 is less exact, and 1.4 to 1.8"
        " times as fast on CPUs that support it well (AMD EPYC). Models are judged in float32.",
    )

    @property
    def direction_or_default(self) -> Literal["l2", "sign"]:
        """The direction, or that of steepest ascent in the norm."""
        return self.direction or ("l2" if self.norm == "l2" else "sign")

    @property
    def start_or_default(self) -> Literal["sphere", "ball"]:
        """The start, or the default of the norm.

        Under l∞ most pixels of a sphere start are on the surface of the box, and attacks from there are weaker.
        """
        return self.start or ("sphere" if self.norm == "l2" else "ball")

    @property
    def step_length(self) -> float:
        """Length of a step, for pixels in [0, 1]."""
        return self.step_size if self.step_size is not None else 2.5 * self.eps / self.steps


class AttackEntry(Frozen):
    """An attack that judges models, in addition to the evaluation's own: PGD, or the AutoAttack ensemble."""

    name: EntryName | None = Field(None, description="Name in tables and metrics. null: norm and eps, as linf_0.1.")
    norm: Literal["l2", "linf"] | None = Field(None, description="As in attack. null: attack.norm.")
    eps: Number | None = Field(None, gt=0, description="As in attack. null: attack.eps, if the norm is attack.norm.")
    steps: Integer | None = Field(None, ge=1, description="Steps of PGD. null: those of the evaluation's own attack.")
    step_size: Number | None = Field(None, gt=0, description="Length of a step of PGD. null: 2.5 · eps / steps.")
    restarts: Integer | None = Field(None, ge=1, description="Random starts of PGD. null: evaluation.restarts.")
    autoattack: Integer | None = Field(
        None, ge=1, description="Test images for AutoAttack (extra autoattack), a stratified subset. null: PGD."
    )

    @model_validator(mode="after")
    def _check_kind(self) -> AttackEntry:
        keys = ("steps", "step_size", "restarts")
        if self.autoattack and (surplus := [key for key in keys if getattr(self, key) is not None]):
            raise ValueError(f"AutoAttack chooses its own {' and '.join(surplus)}; drop them, or drop autoattack")
        return self


def name_entry(entry: AttackEntry, attack: Attack) -> str:
    """Return the name of an entry of evaluation.attacks; attack: the study's."""
    norm, eps = _ball(entry, attack)
    return entry.name or f"{'autoattack_' if entry.autoattack else ''}{norm}_{eps:g}"


def find_entry_problems(entries: Sequence[AttackEntry], attack: Attack) -> Iterator[tuple[int, str]]:
    """Yield the entries of evaluation.attacks that do not fit the study's attack, or each other, and why."""
    names: list[str] = []
    for number, entry in enumerate(entries):
        if entry.eps is None and entry.norm not in (None, attack.norm):
            yield number, f"needs eps, because attack.eps is a radius under {attack.norm}"
        elif (name := name_entry(entry, attack)) in names:
            yield number, f"is the second entry called {name}; give it another name, or drop it"
        else:
            names.append(name)


def _ball(entry: AttackEntry, attack: Attack) -> tuple[str, float]:
    if entry.eps is None and entry.norm not in (None, attack.norm):
        raise ValueError(f"evaluation.attacks: an entry under {entry.norm} needs eps")
    return entry.norm or attack.norm, entry.eps or attack.eps


class GradientNorms(Frozen):
    """The mean gradient norms of Table 3."""

    images: Integer | None = Field(None, ge=1, description="Training images, a stratified subset. null: all.")


class Interpretability(Frozen):
    """The measures of interpretability of the models' input gradients (see the guide tables)."""

    images: Integer = Field(1000, ge=1, description="Test images, a stratified subset; trials use validation images.")
    deletion: Boolean = Field(True, description="Measure deletion too, which takes 38 forwards per image.")


class Checks(Frozen):
    """Tests of each repeat's adversarial accuracy: ten checks of its model, eleven with AutoAttack."""

    images: Integer = Field(100, ge=1, description="Validation images, a stratified subset; all if there are fewer.")
    autoattack: Integer | None = Field(
        None, ge=1, description="Images of these for the AutoAttack ensemble (extra autoattack). null: none."
    )


class Evaluation(Frozen):
    """The measures of trained models. A change makes new judgments, and trains nothing again."""

    steps: Integer | None = Field(None, ge=1, description="Steps of the evaluation's own attack. null: as in attack.")
    step_size: Number | None = Field(
        None,
        gt=0,
        description="Length of a step. null: attack.step_size if steps equals attack.steps, else 2.5 · eps / steps.",
    )
    restarts: Integer = Field(1, ge=1, description="Random starts of an attack; an image is broken if one breaks it.")
    batch_size: Integer = Field(500, ge=1, description="Images per batch.")
    adversarial_every: Integer = Field(
        0,
        ge=0,
        description="Epochs between two adversarial validations, for curves and pruners. 0: none; the model is judged.",
    )
    attacks: tuple[AttackEntry, ...] = Field((), description="Further attacks on the test images, a list of entries.")
    gradient_norms: GradientNorms | None = Field(GradientNorms(), description="Norms of Table 3. null: none.")
    interpretability: Interpretability | None = Field(
        None,
        description="Measures of interpretability of repeats, and of trials that are trained from then on. null: none.",
    )
    checks: Checks | None = Field(Checks(), description="Tests of each repeat's adversarial accuracy. null: none.")


def _check_gpus(gpus: float | None) -> float | None:
    if gpus is not None and gpus > 1 and gpus % 1:
        raise ValueError(f"takes a part of one GPU or whole ones, got {gpus:g}")
    return gpus


class StageResources(Frozen):
    """The resources of jobs that train nothing. Keys that are not given are those of trainings."""

    cpus: Number | None = Field(None, gt=0, description="CPU cores. null: as for a training.")
    gpus: Annotated[Number | None, AfterValidator(_check_gpus)] = Field(
        None, ge=0, description="GPUs: a part of one, such as 0.25, or a whole number. null: as for a training."
    )


class Resources(Frozen):
    """The resources of one trial: a training and the judgments that follow it in the same worker.

    With a GPU, all seeds of a repeat train in one trial. Resources are part of no key.
    """

    cpus: Number = Field(1, gt=0, description="CPU cores.")
    gpus: Annotated[Number, AfterValidator(_check_gpus)] = Field(
        0, ge=0, description="GPUs: a part of one, such as 0.5, or a whole number."
    )
    judge: StageResources = Field(StageResources(), description="Of a job that only judges stored models.")
    maps: StageResources = Field(StageResources(), description="Of a job that only makes target maps.")

    @model_validator(mode="after")
    def _check_devices(self) -> Resources:
        """Refuse a stage on another device than trainings: a judgment may follow its training in the same worker."""
        for name in ("judge", "maps"):
            gpus = getattr(self, name).gpus
            if gpus is not None and bool(gpus) != bool(self.gpus):
                rule = "takes GPUs, too, or a part of one" if self.gpus else "takes 0, or null"
                raise ValueError(
                    f"{name}.gpus {rule}: all jobs use the device of trainings (gpus: {self.gpus:g}), got {gpus:g}"
                )
        return self

    def of(self, stage: Literal["train", "judge", "maps"]) -> Resources:
        """Return the cores and GPUs of a job of this stage."""
        changes = {} if stage == "train" else getattr(self, stage).model_dump(exclude_none=True)
        return Resources(**({"cpus": self.cpus, "gpus": self.gpus} | changes))


class MapSettings(Frozen):
    """The settings of raw SmoothGrad maps (Eq. 4), without the teacher."""

    sigma: Number = Field(0.15, ge=0, description="Standard deviation σ of the noise, for pixels in [0, 1].")
    samples: Integer = Field(50, ge=1, description="Number N of noisy images per image.")
    clamp: Boolean = Field(False, description="Clamp noisy images to [0, 1].")
    include_clean: Boolean = Field(False, description="Count the clean image as one more sample.")
    sign: Literal["abs", "signed"] = Field("abs", description="Average |g| (abs) or g (signed).")
    output: Literal["logits", "probabilities"] = Field(
        "logits", description="Differentiate the label's logit, or its probability."
    )
    precision: Precision = Field("float32", description="As attack.precision, for the teacher; maps are float32.")

    @property
    def map_settings(self) -> MapSettings:
        """Only these settings, without the fields of a derived class."""
        return MapSettings(**{name: getattr(self, name) for name in MapSettings.model_fields})


def _permutation(value: Any) -> Any:
    if suggest_flag(value):
        raise ValueError(f"takes fixed, redrawn, true, false or null, got {format_value(value)}{suggest_flag(value)}")
    return ("fixed" if value else None) if isinstance(value, bool) else value


class Targets(MapSettings):
    """The target maps of an arm: SmoothGrad maps by its teacher."""

    permute: Annotated[Permutation | None, BeforeValidator(_permutation)] = Field(
        None,
        description="Permute each map's values at random within the map. fixed (or true): once, from the trial's seed."
        " redrawn: again for every batch. null (or false): never.",
    )


class ArmData(Frozen):
    """The images of an arm's trainings. Validation and test images are those of the study, for all arms."""

    train_limit: Integer | None = Field(
        None, ge=1, description="Training images: a stratified subset of the study's. null: all of these."
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_images(cls, section: Any) -> Any:
        others = sorted(set(section) & Data.model_fields.keys() - {"train_limit"}) if isinstance(section, dict) else ()
        if others:
            rule = "all arms are judged on the same images, so an arm changes train_limit only"
            raise ValueError(f"{rule}; drop {' and '.join(others)} here, or make another study")
        return section


class Arm(OpenSection):
    """A row of the tables: a method, its teacher and its search. Additional keys are the method's parameters.

    Keys of its model, training and attack replace the study's for its trainings.
    """

    ADDITIONAL = "params"

    method: str = Field(description="A training method, such as standard. Methods are combined with +.")
    title: str | None = Field(None, description="Name in tables and figures. null: the paper's, or the arm's key.")
    teacher: str | None = Field(None, description="The arm that trains the teacher, for methods that need one.")
    teachers: Literal["shared", "per_seed"] = Field(
        "shared", description="shared: the teacher's first seed, for all seeds. per_seed: a teacher for each seed."
    )
    targets: Targets | None = Field(None, description="The teacher's maps, for methods that need target maps.")
    search: Search | None = Field(None, description="Search for parameters before the repeats. null: none.")
    data: ArmData | None = Field(None, description="Fewer training images, such as {train_limit: 1000}. null: all.")
    model: Model | None = Field(
        None, description="Other options of the study's network, or another network by name. null: the study's."
    )
    training: Training | None = Field(
        None, description="Keys that replace those of the study's training, such as {lr: 0.05}. null: none."
    )
    attack: Attack | None = Field(
        None,
        description="Keys that replace those of the study's attack, for the attack in training. Models of all arms are"
        " judged by the study's attack, so that tables compare the same. null: none.",
    )
    params: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _move_teacher(cls, section: Any) -> Any:
        """Take ``teacher`` and ``teachers`` in ``targets``, their place in earlier versions, as keys of the arm."""
        targets = section.get("targets") if isinstance(section, dict) else None
        if not isinstance(targets, dict):
            return section
        moved = {key: targets[key] for key in ("teacher", "teachers") if key in targets}
        return moved | section | {"targets": {key: value for key, value in targets.items() if key not in moved}}

    @field_validator("method")
    @classmethod
    def _normalize_spaces(cls, method: str) -> str:
        return " + ".join(part.strip() for part in method.split("+"))

    @property
    def searches_maps(self) -> bool:
        """True if the search varies settings of the teacher's maps, so that each trial has maps of its own."""
        return self.search is not None and any(name.startswith("targets.") for name in self.search.ranges)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms that must finish first: the teacher, and those that the search compares with."""
        return (*([self.teacher] if self.teacher else []), *(self.search.needs if self.search else ()))


class Study(Frozen):
    """A study: one setting, and the arms that are compared under it."""

    name: str = Field("study", description="Name of the study and its folder. Without it, the file's name counts.")
    data: Data = Field(Data(), description="The data set.")
    model: Model = Field(Model(), description="The network.")
    training: Training = Field(Training(), description="Settings of every training.")
    attack: Attack = Field(Attack(), description="Attack of adversarial training and of the evaluation.")
    evaluation: Evaluation = Field(Evaluation(), description="Measures of trained models.")
    resources: Resources = Field(Resources(), description="Resources of one trial, and of other jobs.")
    seeds: Annotated[tuple[Seed, ...], AfterValidator(check_distinct)] = Field(
        DEFAULT_SEEDS, min_length=1, description="Seeds of the repeats; every arm is trained once per seed."
    )
    arms: dict[str, Arm] = Field(min_length=1, description="The arms by name; each is a row of the tables.")

    @field_validator("name")
    @classmethod
    def _check_folder_name(cls, name: str) -> str:
        if not name.strip(". ") or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > 200:
            raise ValueError(f"takes a printable name of a folder, without slashes, at most 200 bytes, got {name!r}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _complete_arms(cls, section: Any) -> Any:
        return complete_arms(section) if isinstance(section, dict) else section

    @model_validator(mode="before")
    @classmethod
    def _move_checks(cls, section: Any) -> Any:
        """Take ``checks`` at the top, its place before 0.2, as ``evaluation.checks``."""
        if not isinstance(section, dict) or "checks" not in section:
            return section
        rest = {key: value for key, value in section.items() if key != "checks"}
        evaluation = section.get("evaluation", {})
        if isinstance(evaluation, dict):
            rest["evaluation"] = {"checks": section["checks"]} | evaluation
        return rest

    def entry_name(self, entry: AttackEntry) -> str:
        """Return the name of an entry of evaluation.attacks."""
        return name_entry(entry, self.attack)

    def ball_of(self, entry: AttackEntry) -> Attack:
        """Return the attack of an entry of evaluation.attacks; of AutoAttack, only norm and eps count."""
        base = self.evaluation_attack
        norm, eps = _ball(entry, self.attack)
        changes = {"norm": norm, "eps": eps, "steps": entry.steps or base.steps}
        if entry.step_size is None and all(getattr(base, key) == value for key, value in changes.items()):
            return base
        return base.model_copy(update=changes | {"step_size": entry.step_size})

    @property
    def evaluation_attack(self) -> Attack:
        """The attack of the evaluation: training's norm and radius, the evaluation's steps, in float32."""
        steps = self.evaluation.steps or self.attack.steps
        default = self.attack.step_size if steps == self.attack.steps else None
        step_size = self.evaluation.step_size or default
        return self.attack.model_copy(update={"steps": steps, "step_size": step_size, "precision": "float32"})

    def arms_in_order(self) -> list[str]:
        """Return the names of the arms, each after the arms that it needs."""
        order = TopologicalSorter({name: arm.needs for name, arm in self.arms.items()}).static_order()
        return [name for name in order if name in self.arms]

    def setting(self) -> dict[str, Any]:
        """Return what the trainings share, unless an arm overrides it. A store holds models of one setting only.

        What arms override is not part of it: a training counts for an arm if it has the arm's present settings.
        """
        shared = self.model_dump(mode="json", include={"data", "model", "training", "attack"})
        shared["data"].pop("root")
        return shared
