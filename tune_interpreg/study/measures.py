"""The measures of a trained model, and which of them a study asks for. One class per kind, with plain settings.

A new kind is a class here, a function in ``evaluation.judging``, and a line in ``list_trial_questions`` or
``list_repeat_questions``. A measure holds exactly what its result depends on, in addition to the model and the split.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tune_interpreg.study.config import Attack, Study
from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.space import Search

#: The images of a judgment. Only judgments on the test split read test data.
SplitName = Literal["train", "validation", "test"]


class AccuracyMeasure(Frozen):
    """The fraction of images that are classified correctly."""

    kind: Literal["accuracy"] = "accuracy"


class StrictMeasure(Frozen):
    """The adversarial accuracy under PGD in its strict form, which does not depend on the batch size."""

    kind: Literal["strict"] = "strict"
    attack: Attack
    restarts: int = 1


class CompatMeasure(Frozen):
    """The adversarial accuracy under PGD in its compat form, which depends on the batch size."""

    kind: Literal["compat"] = "compat"
    attack: Attack
    restarts: int = 1
    batch_size: int


class AutoAttackMeasure(Frozen):
    """The adversarial accuracy under the AutoAttack ensemble, on a stratified subset of ``images``."""

    kind: Literal["autoattack"] = "autoattack"
    norm: Literal["l2", "linf"]
    eps: float
    images: int


class GradientNormsMeasure(Frozen):
    """The mean gradient norms of Table 3, on a stratified subset of ``images``; None: all."""

    kind: Literal["gradient_norms"] = "gradient_norms"
    images: int | None


class ChecksMeasure(Frozen):
    """The honesty checks of the evaluation under ``attack``, on a stratified subset of ``images``.

    sources: arm → key of the training of another model, which lends its adversarial examples.
    """

    kind: Literal["checks"] = "checks"
    images: int
    autoattack: int | None
    attack: Attack
    restarts: int
    batch_size: int
    sources: dict[str, str]


Measure = Annotated[
    AccuracyMeasure | StrictMeasure | CompatMeasure | AutoAttackMeasure | GradientNormsMeasure | ChecksMeasure,
    Field(discriminator="kind"),
]

#: A measure and the split that it is taken on.
Question = tuple[Measure, SplitName]


class Observation(Frozen):
    """The validation after each epoch of a training, for curves and pruners. It does not change the model.

    every: epochs between two adversarial validations; 0: none.
    """

    strict: StrictMeasure
    every: int


def observe(study: Study, search: Search | None = None) -> Observation:
    """Return the observation of a study's trainings: of the trials of ``search``, or of the repeats."""
    is_attacked = search is None or search.attacks_trials
    return Observation(strict=_strict(study), every=study.evaluation.adversarial_every if is_attacked else 0)


def list_trial_questions(study: Study, search: Search) -> list[Question]:
    """Return what a search asks about each trial's model. A match by the loss alone asks nothing."""
    return [(AccuracyMeasure(), "validation"), (_strict(study), "validation")] if search.attacks_trials else []


def list_repeat_questions(study: Study) -> list[Question]:
    """Return what the tables ask about each repeat's model, without the checks."""
    evaluation, attack = study.evaluation, study.evaluation_attack
    restarts, batch_size = evaluation.restarts, evaluation.batch_size
    questions: list[Question] = [
        (AccuracyMeasure(), "validation"),
        (_strict(study), "validation"),
        (AccuracyMeasure(), "test"),
        (CompatMeasure(attack=attack, restarts=restarts, batch_size=batch_size), "test"),
        (_strict(study), "test"),
        (GradientNormsMeasure(images=evaluation.gradient_samples), "train"),
    ]
    if evaluation.autoattack:
        images = evaluation.autoattack
        questions.append((AutoAttackMeasure(norm=attack.norm, eps=attack.eps, images=images), "test"))
    return questions


def checks_measure(study: Study, sources: dict[str, str]) -> ChecksMeasure | None:
    """Return the checks that a study asks for; None without any. sources: as in ``ChecksMeasure``."""
    checks, evaluation = study.checks, study.evaluation
    if checks is None:
        return None
    shared: dict[str, Any] = {"attack": study.evaluation_attack, "restarts": evaluation.restarts}
    shared |= {"batch_size": evaluation.batch_size, "sources": sources}
    return ChecksMeasure(images=checks.images, autoattack=checks.autoattack, **shared)


def _strict(study: Study) -> StrictMeasure:
    return StrictMeasure(attack=study.evaluation_attack, restarts=study.evaluation.restarts)
