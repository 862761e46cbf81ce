"""The parameters for the repeats: those of the best trial within the bounds, or a matched strength."""

import math
from typing import Any

import pytest
from helpers.trials import BEST, MATCH, OBSERVATION, trial_record
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tune_interpreg.search.bounds import Bounds
from tune_interpreg.search.choice import Choice, choose, digest_trials
from tune_interpreg.search.matching.estimate import estimate
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Job, Train
from tune_interpreg.study.metric_names import TRAIN_CE, TRAIN_LOSS, VAL_ACCURACY, VAL_ADV_ACCURACY
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.study.space import Condition, Range, Search

SPACE = MATCH.ranges
TARGET = Target(loss=0.4, noise=0.01, error=0.005)
STRENGTHS = (0.002, 0.01, 0.05, 0.3)
TRIALS = [trial_record(number, {"lambda": strength}) for number, strength in enumerate(STRENGTHS)]
RESIDUALS = [2 * strength**0.5 - 0.4 for strength in STRENGTHS]
LEVELS = st.sampled_from([0.1, 0.2, 0.3, 0.4])


def points(values: list[tuple[float, float]]) -> list[Record]:
    """Return trials with these clean and adversarial accuracies."""
    return [
        trial_record(number, {"lambda": 0.001 * (number + 1)}, metrics={VAL_ACCURACY: clean, VAL_ADV_ACCURACY: adv})
        for number, (clean, adv) in enumerate(values)
    ]


def bounded(least: float) -> tuple[Search, Bounds]:
    """Return a search with a bound on the clean accuracy, and the bound."""
    search = Search(space=SPACE, maximize=VAL_ADV_ACCURACY, where={VAL_ACCURACY: {"at_least": least}})
    return search, Bounds({VAL_ACCURACY: least})


def chosen(search: Search, records: list[Record], target: Target | None = None, bounds: Bounds | None = None) -> Choice:
    choice = choose(search, records, target, bounds)
    assert choice is not None
    return choice


def repeat_record(seed: int, metrics: dict[str, float]) -> Record:
    model = Train(recipe=Recipe(method="standard"), seed=seed)
    fields = {"stage": "repeats", "trains": True, "observation": OBSERVATION, "batch_size": 500}
    return ledger.make_record(Job(arm="robust", models=(model,), **fields), model, "done", metrics=metrics)


def repeat_records(*losses: float) -> list[Record]:
    return [repeat_record(seed, {TRAIN_LOSS: loss}) for seed, loss in enumerate(losses)]


# ------------------------------------------------------------------- the best
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_best_metric_wins_and_the_earlier_trial_on_a_tie(values: list[float]) -> None:
    search, records = Search(space=SPACE, maximize=VAL_ADV_ACCURACY), points([(0.9, value) for value in values])
    for order in (records, records[::-1]):
        assert chosen(search, order).params == {"lambda": 0.001 * (values.index(max(values)) + 1)}


def test_only_done_trials_with_every_metric_are_chosen() -> None:
    states: list[ledger.RecordState] = ["failed", "diverged", "pruned"]
    lost = [trial_record(number, {"lambda": 0.1, "phi": 0.0}, state) for number, state in enumerate(states)]
    lost.append(trial_record(3, {"lambda": 0.1, "phi": 0.0}, metrics={VAL_ACCURACY: 1.0}))
    for search in (BEST, bounded(0.1)[0]):
        assert choose(search, lost, None) is None
        assert choose(search, [], None) is None
        worse = trial_record(4, {"lambda": 0.5, "phi": 1.0})
        assert chosen(search, [*lost, worse]).params["lambda"] == 0.5


@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=12), LEVELS)
def test_the_best_trial_within_the_bounds_wins_else_the_one_with_the_least_violation(
    values: list[tuple[float, float]], least: float
) -> None:
    search, bounds = bounded(least)
    choice = chosen(search, points(values), None, bounds)
    number = round(float(choice.params["lambda"]) * 1000) - 1
    clean, adv = values[number]
    feasible = [value for value in values if value[0] >= least]
    assert choice.feasible == bool(feasible) == (choice.reason is None)
    if feasible:
        assert clean >= least
        assert adv == max(value[1] for value in feasible)
    else:
        assert clean == max(value[0] for value in values)
        assert adv == max(value[1] for value in values if value[0] == clean)
        assert str(number) in str(choice.reason)
    assert number == values.index((clean, adv)), "the earlier trial on a tie"


@pytest.mark.parametrize(("least", "number"), [(0.99, 0), (0.975, 1), (0.95, 2), (0.5, 3), (0.995, 0)])
def test_a_bound_trades_clean_accuracy_for_the_maximized_one(least: float, number: int) -> None:
    records = points([(0.99, 0.3), (0.98, 0.5), (0.95, 0.6), (0.90, 0.9), (0.89, 0.8)])
    choice = chosen(bounded(least)[0], records, None, bounded(least)[1])
    assert (choice.params, choice.least) == ({"lambda": 0.001 * (number + 1)}, {VAL_ACCURACY: least})
    assert choice.feasible == (least < 0.995)


def test_a_bound_is_the_mean_of_the_other_arms_judged_seeds_less_the_allowance() -> None:
    where = {VAL_ACCURACY: {"within": 0.125, "of": "robust"}, VAL_ADV_ACCURACY: {"at_least": 0.5}}
    search = Search.model_construct(where=TypeAdapter(dict[str, Condition]).validate_python(where))
    repeats = [repeat_record(0, {VAL_ACCURACY: 0.75}), repeat_record(1, {VAL_ACCURACY: 1.0}), repeat_record(2, {})]
    bounds = Bounds.from_repeats(search, {"robust": repeats})
    assert bounds is not None
    assert bounds.least == {VAL_ACCURACY: 0.75, VAL_ADV_ACCURACY: 0.5}
    assert bounds.violation({VAL_ACCURACY: 0.5, VAL_ADV_ACCURACY: 0.75}) == 0.25
    assert Bounds.from_repeats(search, {"robust": repeats[2:]}) is None


# ------------------------------------------------------------------ the match
def test_a_matched_strength_is_the_estimated_root() -> None:
    match = estimate(STRENGTHS, RESIDUALS, bounds=(0.001, 1.0), noise=0.01, target=0.4)
    assert match.lambda_hat not in STRENGTHS
    search = MATCH.model_copy(update={"trials": len(TRIALS)})
    assert choose(search, TRIALS, TARGET, reference="ab") == Choice(
        params={"lambda": match.lambda_hat},
        trials=digest_trials(search, TRIALS, "ab"),
        parameter="lambda",
        target=0.4,
        tolerance=0.005,
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
    )


def test_a_diverged_trial_was_too_strong_and_a_failed_trial_is_ignored() -> None:
    lost = [trial_record(3, {"lambda": 0.3}, "diverged"), trial_record(4, {"lambda": 0.4}, "failed")]
    choice = chosen(MATCH, [*TRIALS[:3], *lost], TARGET)
    match = estimate(STRENGTHS, [*RESIDUALS[:3], math.inf], bounds=(0.001, 1.0), noise=0.01, target=0.4)
    assert (choice.params["lambda"], choice.low, choice.high) == (match.lambda_hat, match.low, match.high)
    assert choose(MATCH, lost, TARGET) is None


def test_the_digest_covers_goal_trials_and_reference_only() -> None:
    records = [trial_record(number, {"lambda": 0.01 * (number + 1), "phi": 0.0}) for number in range(4)]
    digest = digest_trials(MATCH, records, "ab")
    others: list[tuple[Any, ...]] = [
        (MATCH, [*records, trial_record(4, {"lambda": 0.4})], "ab"),
        (MATCH, records[:3], "ab"),
        (MATCH, [*records[:3], trial_record(3, {"lambda": 0.04, "phi": 0.0}, "failed")], "ab"),
        (MATCH, [*records[:3], trial_record(3, {"lambda": 0.041, "phi": 0.0})], "ab"),
        (MATCH, [*records[:3], records[3] | {"judged": ["another attack"]}], "ab"),
        (MATCH, records, "cd"),
        (MATCH.model_copy(update={"loss": "ce"}), records, "ab"),
        (MATCH.model_copy(update={"space": {"lambda": Range(log_uniform=(0.001, 2.0))}}), records, "ab"),
        (BEST, records, None),
        (BEST.model_copy(update={"maximize": VAL_ACCURACY}), records, None),
        (BEST, records, {VAL_ACCURACY: "ab"}),
        (bounded(0.9)[0].model_copy(update={"space": BEST.space}), records, None),
    ]
    assert len({digest, *(digest_trials(*other) for other in others)}) == len(others) + 1
    same = MATCH.model_copy(update={"trials": 99})
    assert digest_trials(same, [record | {"seconds": 9.0, "device": "x"} for record in records], "ab") == digest


# ----------------------------------------------------------------- the target
@pytest.mark.parametrize(
    ("losses", "loss", "noise"),
    [((1.0, 2.0, 3.0), 2.0, 1.0), ((2.0,), 2.0, 0.002), ((2.0, 2.0), 2.0, 0.002), ((0.0,), 0.0, 1e-12)],
)
def test_the_target_is_the_mean_loss_and_the_deviation_of_one_seed(
    losses: tuple[float, ...], loss: float, noise: float
) -> None:
    target = Target.from_repeats(repeat_records(*losses))
    assert (target.loss, target.noise) == (pytest.approx(loss), pytest.approx(noise))
    assert target.error == pytest.approx(noise / math.sqrt(len(losses)))


def test_a_search_matches_the_total_loss_or_the_cross_entropy() -> None:
    repeats = [repeat_record(seed, {TRAIN_LOSS: 3.0 + seed, TRAIN_CE: 1.0 + seed}) for seed in (0, 1)]
    trial = trial_record(0, {"lambda": 0.1}, metrics={TRAIN_LOSS: 4.0, TRAIN_CE: 1.25})
    for loss, target_loss, residual in (("total", 3.5, 0.5), ("ce", 1.5, -0.25)):
        target = Target.from_repeats(repeats, MATCH.model_copy(update={"loss": loss}).matched_metric)
        assert (target.loss, target.residual(trial)) == (target_loss, residual)
    assert target.residual(trial_record(0, {"lambda": 0.1}, "diverged")) == math.inf
    assert target.residual(trial_record(0, {"lambda": 0.1}, "failed")) is None


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"grid": {"lambda": [1, 2]}, "maximize": VAL_ADV_ACCURACY, "trials": 3}, "trials"),
        ({"grid": {"lambda": [1, 1]}, "maximize": VAL_ADV_ACCURACY}, "lambda"),
        ({"grid": {"lambda": [1, 2]}, "match_loss_of": "a"}, "grid"),
        ({"maximize": VAL_ADV_ACCURACY}, "space"),
        ({"space": SPACE, "maximize": [VAL_ADV_ACCURACY]}, "takes one metric"),
        ({"space": SPACE, "maximize": VAL_ADV_ACCURACY, "pick": {"best": VAL_ADV_ACCURACY}}, "pick"),
        ({"space": SPACE, "maximize": VAL_ADV_ACCURACY, "where": {VAL_ADV_ACCURACY: {"at_least": 0.5}}}, "where"),
        ({"space": SPACE, "match_loss_of": "a", "where": {VAL_ACCURACY: {"at_least": 0.5}}}, "where"),
        ({"space": SPACE, "maximize": VAL_ADV_ACCURACY, "anchor": "a"}, "anchor"),
        ({"space": SPACE, "match_loss_of": "a", "sampler": "gp"}, "sampler"),
        ({"space": SPACE | {"phi": {"choice": [0, 1]}}, "match_loss_of": "a", "trials": 5}, "trials"),
        ({"space": SPACE | {"phi": {"uniform": (0, 1)}}, "match_loss_of": "a"}, "phi"),
    ],
)
def test_a_contradictory_search_is_refused(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        Search.model_validate(changes)
