"""Does interpretability go with robustness over the models of a study? The points, the correlations, the sentences."""

import math
from dataclasses import dataclass

from analysis.results.results import Results
from analysis.statistics.association import association
from analysis.statistics.intervals import Interval
from tune_interpreg.study import metric_names as names
from tune_interpreg.study.metric_names import TEST_STRICT, VAL_ADV_ACCURACY

ALIGNMENT, NORM = f"test/{names.ALIGNMENT}", f"test/{names.NORM_LOG_PROBABILITY}"


@dataclass(frozen=True)
class JudgedModel:
    """A trained model: its arm, seed, alignment in pixels, and strict adversarial accuracy in [0, 1].

    norm: the mean of ‖∇ log p_y‖.
    """

    arm: str
    seed: int
    alignment: float
    accuracy: float
    norm: float


def list_models(results: Results) -> list[JudgedModel]:
    """Return the repeats with all three measures on test images, in the study's order."""
    models = []
    for arm in results.study.arms:
        alignment, accuracy, norm = (results.values(arm, metric) for metric in (ALIGNMENT, TEST_STRICT, NORM))
        for seed in results.study.seeds:
            if seed in alignment and seed in accuracy and norm.get(seed, 0) > 0:
                models.append(JudgedModel(arm, seed, alignment[seed], accuracy[seed], norm[seed]))
    return models


def list_trial_models(results: Results) -> list[JudgedModel]:
    """Return the trials of searches with all three measures on validation images."""
    models = []
    for arm in results.study.arms:
        for trial in results.current.list_trials(arm):
            metrics = trial["metrics"]
            values = [metrics.get(name.replace("test/", "val/")) for name in (ALIGNMENT, NORM)]
            values.append(metrics.get(VAL_ADV_ACCURACY))
            if all(value is not None and math.isfinite(value) for value in values):
                models.append(JudgedModel(arm, trial["seed"], values[0], values[2], values[1]))
    return models


def correlate(models: list[JudgedModel]) -> tuple[Interval | None, Interval | None]:
    """Return Spearman's ρ of alignment and accuracy over the models, and the partial one given log ‖∇ log p_y‖."""
    x_M, y_M = [model.alignment for model in models], [model.accuracy for model in models]
    seeds, size_M = [model.seed for model in models], [math.log(model.norm) for model in models]
    return association(x_M, y_M, seeds), association(x_M, y_M, seeds, size_M)


def describe_association(results: Results) -> tuple[str, ...]:
    """Return two sentences: whether alignment goes with robustness, and whether it does at equal gradient size."""
    models = list_models(results)
    total, partial = correlate(models)
    if total is None or partial is None:
        return ()
    arms = len({model.arm for model in models})
    claims = []
    for interval, condition in ((total, ""), (partial, "at equal gradient size, ")):
        claim = {1: "better aligned models are more robust", -1: "better aligned models are less robust"}
        result = claim.get(interval.sign, "no association of alignment and robustness is shown")
        claims.append(f"{condition}{result} ({describe_interval(interval)})")
    taught = [results.title(name) for name, arm in results.study.arms.items() if arm.teacher]
    trained = f"; {', '.join(taught)}: trained by a teacher, so they are no independent evidence" if taught else ""
    scope = f"over {len(models)} models of {arms} arms, which are few"
    return (
        f"Interpretability and robustness within this study, {scope}: {claims[0]}{trained}.",
        f"Of the same models, {claims[1]}; the size is the mean of ‖∇ log p_y‖.",
    )


def describe_interval(interval: Interval) -> str:
    """Return "Spearman's ρ = 0.61 [0.32, 0.80]" with the interval of a bootstrap over seeds, if there is one."""
    bounds = f" [{interval.bounds[0]:.2f}, {interval.bounds[1]:.2f}]" if interval.bounds else ", one seed only"
    return f"Spearman's ρ = {interval.mean:.2f}{bounds}".replace("-", "−")
