"""The importance of each searched parameter for a metric of a search's trials, by Optuna's random forest.

Optuna and scikit-learn are imported on first use, so that a report without such searches does not load them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.setting import read_params
from tune_interpreg.study.space import Range, Search

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: Fewest trials. With fewer, the forest's shares are mostly noise.
LEAST_TRIALS = 10

#: Most trials: of more, so many, evenly spaced in the order of their numbers. A forest of thousands takes seconds.
MOST_TRIALS = 500

#: Trees of a forest, as in Optuna.
TREES = 64


@dataclass(frozen=True)
class Importances:
    """The parameters' shares in what a random forest learns of a metric.

    shares: parameter → share in [0, 1]; the shares add up to 1. explained: R² of predictions of trials that a tree was
    not trained on (out of bag), at most 1; at 0 or below the parameters explain nothing, and there are no shares.
    trials: their number.
    """

    shares: Mapping[str, float]
    explained: float
    trials: int


def compute_importances(search: Search, trials: Sequence[Record], metric: str) -> Importances | None:
    """Return the importances of a search's parameters for a metric, with a fixed seed.

    A parameter's share is the mean decrease of impurity: the part of the metric's variance over the trials that the
    trees' splits on it remove (Louppe et al. 2013), relative to all splits. No monotone scale of a parameter changes
    it. Optuna's other evaluators suit these searches less: fANOVA averages over a linear scale also where a range is
    logarithmic, and PED-ANOVA, which compares the best tenth with the rest, needs many more trials.

    Args:
        trials: the settled trials; those that are done and have a finite value count.
        metric: such as ``val/adv_accuracy``.

    Returns:
        None with fewer than ``LEAST_TRIALS`` trials, fewer than two parameters that vary, or a constant metric.
    """
    done = [trial for trial in trials if trial["state"] == "done"]
    values = [(read_params(trial["recipe"], search.ranges), trial["metrics"].get(metric)) for trial in done]
    finite = [(params, float(value)) for params, value in values if value is not None and math.isfinite(value)]
    varying = [name for name in search.ranges if len({params[name] for params, _ in finite}) > 1]
    if len(finite) < LEAST_TRIALS or len(varying) < 2 or len({value for _, value in finite}) < 2:
        return None
    if len(finite) > MOST_TRIALS:
        finite = [finite[index * len(finite) // MOST_TRIALS] for index in range(MOST_TRIALS)]
    params_T = [{name: params[name] for name in varying} for params, _ in finite]
    values_T = [value for _, value in finite]
    explained = _explained(params_T, values_T)
    return Importances(_shares(search, params_T, values_T) if explained > 0 else {}, explained, len(finite))


def _shares(search: Search, params_T: Sequence[Mapping[str, Scalar]], values_T: Sequence[float]) -> dict[str, float]:
    import optuna

    spans = {name: _distribution(search.ranges[name], [params[name] for params in params_T]) for name in params_T[0]}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line says that a study was made
    study = optuna.create_study()
    optuna.logging.set_verbosity(verbosity)
    for params, value in zip(params_T, values_T, strict=True):
        study.add_trial(optuna.create_trial(params=dict(params), distributions=spans, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=TREES, seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: shares[name] for name in spans}


def _distribution(span: Range, values: Sequence[Scalar]) -> BaseDistribution:
    """Return a distribution with these values; the trees need no scale, and a match may leave its range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if span.choice is not None:
        return CategoricalDistribution(span.choice)
    numbers = [float(value) for value in values]
    return FloatDistribution(min(numbers), max(numbers))


def _explained(params_T: Sequence[Mapping[str, Scalar]], values_T: Sequence[float]) -> float:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.feature_extraction import DictVectorizer

    encoded_TP: Any = DictVectorizer(sparse=False).fit_transform([dict(params) for params in params_T])
    forest = RandomForestRegressor(n_estimators=TREES, oob_score=True, random_state=0)
    return float(forest.fit(encoded_TP, values_T).oob_score_)
