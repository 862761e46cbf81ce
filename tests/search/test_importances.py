"""Importances of searched parameters on metrics with known dependence."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from tune_interpreg.search.importances import LEAST_TRIALS, MOST_TRIALS, Importances, compute_importances
from tune_interpreg.store.store import Record
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.space import Search

pytestmark = pytest.mark.thorough

METRIC = "val/adv_accuracy"
SPACE = {
    "lambda": {"log_uniform": [0.001, 1.0]},
    "phi": {"uniform": [0.0, 1.0]},
    "norm": {"choice": ["batch", "sample"]},
}
Values = dict[str, Scalar]


def search(*names: str) -> Search:
    return Search.model_validate({"space": {name: SPACE[name] for name in names}, "maximize": METRIC})


def trial(params: Values, value: float, state: str = "done") -> Record:
    return {"state": state, "recipe": {"params": params}, "metrics": {METRIC: value}}


def draw(count: int, seed: int = 0) -> list[Values]:
    generator = np.random.default_rng(seed)
    lambdas, phis = 10 ** generator.uniform(-3, 0, count), generator.uniform(0, 1, count)
    norms = generator.choice(["batch", "sample"], count)
    return [{"lambda": float(a), "phi": float(b), "norm": str(c)} for a, b, c in zip(lambdas, phis, norms, strict=True)]


def position(params: Values) -> float:
    """Return the place of λ in its logarithmic range, from 0 to 1."""
    return 1 + math.log10(float(params["lambda"])) / 3


def compute(names: tuple[str, ...], params: list[Values], function: Callable[[Values], float]) -> Importances | None:
    return compute_importances(search(*names), [trial(each, function(each)) for each in params], METRIC)


def test_the_only_parameter_that_matters_has_the_whole_share() -> None:
    found = compute(("lambda", "phi", "norm"), draw(60), position)
    assert found
    assert found.trials == 60
    assert found.shares["lambda"] > 0.95
    assert found.explained > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)
    by_choice = compute(("lambda", "norm"), draw(60), lambda params: float(params["norm"] == "batch"))
    assert by_choice
    assert by_choice.shares["norm"] > 0.95


def test_equal_parameters_have_equal_shares() -> None:
    """A full factorial design with a metric that is symmetric in both."""
    levels = [(i + 0.5) / 8 for i in range(8)]
    params: list[Values] = [{"lambda": 10 ** (3 * a - 3), "phi": b} for a in levels for b in levels]
    found = compute(("lambda", "phi"), params, lambda each: position(each) + float(each["phi"]))
    assert found
    assert found.shares["lambda"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("count", "low", "high"), [(20, 0.25, 0.75), (40, 0.3, 0.7)])
def test_shares_of_few_trials_vary_as_the_table_says(count: int, low: float, high: float) -> None:
    """n = 12 simulations."""
    for seed in range(12):
        found = compute(("lambda", "phi"), draw(count, seed), lambda each: position(each) + float(each["phi"]))
        assert found
        assert low <= found.shares["lambda"] <= high


def test_no_monotone_scale_of_a_parameter_changes_its_share() -> None:
    params = draw(40)
    cubed: list[Values] = [{**each, "lambda": float(each["lambda"]) ** 3} for each in params]
    values = [position(each) ** 2 + 0.3 * float(each["phi"]) for each in params]
    first, second = (
        compute_importances(search("lambda", "phi"), list(map(trial, group, values)), METRIC)
        for group in (params, cubed)
    )
    assert first
    assert second
    assert second.shares == pytest.approx(first.shares, abs=0.01)


def test_noise_is_explained_by_nothing_and_has_no_shares() -> None:
    noise = dict(zip((position(each) for each in draw(30)), np.random.default_rng(1).normal(size=30), strict=True))
    found = compute(("lambda", "phi"), draw(30), lambda each: float(noise[position(each)]))
    assert found
    assert found.explained <= 0
    assert found.shares == {}


def test_equal_trials_give_equal_importances() -> None:
    first, second = (compute(("lambda", "phi"), draw(20), position) for _ in range(2))
    assert first == second


def test_too_little_data_gives_nothing() -> None:
    params = draw(LEAST_TRIALS)
    assert compute(("lambda", "phi"), params, position)
    assert compute(("lambda", "phi"), params[1:], position) is None
    assert compute(("lambda",), params, position) is None, "one parameter always has the whole share"
    assert compute(("lambda", "phi"), params, lambda _: 0.5) is None
    assert compute(("lambda", "phi"), [{**each, "phi": 0.5} for each in params], position) is None
    trials = [trial(each, position(each)) for each in params]
    for lost in (trial(params[0], math.nan), trial(params[0], 0.1, "diverged")):
        assert compute_importances(search("lambda", "phi"), [lost, *trials[1:]], METRIC) is None


def test_a_forest_takes_no_more_than_the_most_trials() -> None:
    """Only the second half of the trials depends on λ, which the first trials alone would not show."""
    points = draw(3 * MOST_TRIALS)
    late = MOST_TRIALS * 3 // 2
    trials = [trial(point, position(point) if n >= late else 0.5) for n, point in enumerate(points)]
    importances = compute_importances(search("lambda", "phi"), trials, METRIC)
    assert importances is not None
    assert importances.trials == MOST_TRIALS
    assert importances.shares["lambda"] > 0.5
