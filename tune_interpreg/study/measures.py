"""The measures of a trained model, and which of them a study asks for. One class per kind, with plain settings.

A new kind is a class here, a function in ``evaluation.judging``, and a line in ``list_trial_questions`` or
``list_repeat_questions``. A measure holds exactly what its result depends on, in addition to the model and the split.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from tune_interpreg.study.config import Attack, GradientNorms, Interpretability, MapSettings, Study
from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.metric_names import (
    DELETION,
    GRAD_NORM_LABEL,
    GRAD_NORM_OTHER,
    VAL_ACCURACY,
    VAL_ADV_ACCURACY,
)
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


class InterpretabilityMeasure(Frozen):
    """The measures of interpretability, means over a stratified subset of ``images``; of the validation split, at most.

    maps: label → key of the training of another model. Its SmoothGrad maps of the same images are compared.
    settings: of these maps.
    """

    kind: Literal["interpretability"] = "interpretability"
    images: int
    deletion: bool
    maps: dict[str, str] = Field(default_factory=dict)
    settings: MapSettings = MapSettings()


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
    AccuracyMeasure
    | StrictMeasure
    | CompatMeasure
    | AutoAttackMeasure
    | GradientNormsMeasure
    | InterpretabilityMeasure
    | ChecksMeasure,
    Field(discriminator="kind"),
]


class Question(NamedTuple):
    """A measure and the split that it is taken on. ``name``: of its entry in ``evaluation.attacks``, if any."""

    measure: Measure
    split: SplitName
    name: str = ""


class Observation(Frozen):
    """The validation after each epoch of a training, for curves and pruners. It does not change the model.

    every: epochs between two adversarial validations; 0: none.
    """

    strict: StrictMeasure
    every: int

    def has_taken(self, measure: Measure, split: SplitName, epochs: int) -> bool:
        """Return whether a training of so many epochs has taken a measure after the last one."""
        is_attacked = self.every > 0 and epochs % self.every == 0
        is_taken = isinstance(measure, AccuracyMeasure) or (is_attacked and measure == self.strict)
        return split == "validation" and is_taken


def observe(study: Study, search: Search | None = None) -> Observation:
    """Return the observation of a study's trainings: of the trials of ``search``, or of the repeats."""
    is_attacked = search is None or search.attacks_trials
    return Observation(strict=_strict(study), every=study.evaluation.adversarial_every if is_attacked else 0)


def list_trial_questions(study: Study, search: Search) -> list[Question]:
    """Return what a search asks about each trial's model. A match by the loss alone asks nothing."""
    attacked = [Question(AccuracyMeasure(), "validation"), Question(_strict(study), "validation")]
    return _add_missing(attacked if search.attacks_trials else [], _ask_matched(study, search))


def list_trial_extras(study: Study, search: Search) -> list[Question]:
    """Return what is asked about each attacked trial's model that no search waits for: points of a figure."""
    interpretability = study.evaluation.interpretability
    if interpretability is None or not search.attacks_trials:
        return []
    return [Question(InterpretabilityMeasure(images=interpretability.images, deletion=False), "validation")]


def list_repeat_questions(study: Study) -> list[Question]:
    """Return what the tables ask about each repeat's model by itself."""
    evaluation = study.evaluation
    questions = [
        Question(AccuracyMeasure(), "validation"),
        Question(_strict(study), "validation"),
        Question(AccuracyMeasure(), "test"),
        *_ask_pgd(study, study.evaluation_attack, evaluation.restarts),
    ]
    for entry in evaluation.attacks:
        name, ball = study.entry_name(entry), study.ball_of(entry)
        if entry.autoattack is None:
            questions += _ask_pgd(study, ball, entry.restarts or evaluation.restarts, name)
        else:
            ensemble = AutoAttackMeasure(norm=ball.norm, eps=ball.eps, images=entry.autoattack)
            questions.append(Question(ensemble, "test", name))
    if evaluation.gradient_norms:
        questions.append(Question(GradientNormsMeasure(images=evaluation.gradient_norms.images), "train"))
    matched = [question for arm in study.arms.values() if arm.search for question in _ask_matched(study, arm.search)]
    return _add_missing(questions, matched)


def list_dependent_questions(study: Study, sources: dict[str, str], maps: dict[str, str]) -> list[Question]:
    """Return what the tables ask about a repeat's model and other models: checks, and measures of interpretability.

    sources: as in ``ChecksMeasure``. maps: as in ``InterpretabilityMeasure``.
    """
    checks, interpretability, questions = study.evaluation.checks, study.evaluation.interpretability, []
    if interpretability:
        targets = next((arm.targets for arm in study.arms.values() if arm.targets), None)
        settings = targets.map_settings.model_copy(update={"sign": "abs"}) if targets else MapSettings()
        shown = {"images": interpretability.images, "deletion": interpretability.deletion, "maps": maps}
        questions.append(Question(InterpretabilityMeasure(**shown, settings=settings), "test"))
    if checks:
        shared: dict[str, Any] = {"attack": study.evaluation_attack, "restarts": study.evaluation.restarts}
        shared |= {"batch_size": study.evaluation.batch_size, "sources": sources}
        measure = ChecksMeasure(images=checks.images, autoattack=checks.autoattack, **shared)
        questions.append(Question(measure, "validation"))
    return questions


def _add_missing(questions: list[Question], others: list[Question]) -> list[Question]:
    """Return the questions, then those of the others that are not among them."""
    asked = list(questions)
    asked += [other for number, other in enumerate(others) if other not in [*questions, *others[:number]]]
    return asked


def _ask_matched(study: Study, search: Search) -> list[Question]:
    """Return the question about the metric that a search matches, the same for its trials and for all repeats."""
    if search.matching is None or not search.matching.is_judged:
        return []
    metric, evaluation = search.matching.metric, study.evaluation
    if metric == VAL_ACCURACY:
        return [Question(AccuracyMeasure(), "validation")]
    if metric == VAL_ADV_ACCURACY:
        return [Question(_strict(study), "validation")]
    if metric in (GRAD_NORM_LABEL, GRAD_NORM_OTHER):
        return [Question(GradientNormsMeasure(images=(evaluation.gradient_norms or GradientNorms()).images), "train")]
    images = (evaluation.interpretability or Interpretability()).images
    measure = InterpretabilityMeasure(images=images, deletion=metric == f"val/{DELETION}")
    return [Question(measure, "validation")]


def _ask_pgd(study: Study, attack: Attack, restarts: int, name: str = "") -> list[Question]:
    """Return the questions for both forms of an attack on the test images."""
    compat = CompatMeasure(attack=attack, restarts=restarts, batch_size=study.evaluation.batch_size)
    strict = StrictMeasure(attack=attack, restarts=restarts)
    return [Question(compat, "test", name), Question(strict, "test", name)]


def _strict(study: Study) -> StrictMeasure:
    return StrictMeasure(attack=study.evaluation_attack, restarts=study.evaluation.restarts)
