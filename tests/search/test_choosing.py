"""The parameters for the repeats: those of the best trial, or the strength that matches a loss."""

import math

import pytest
from helpers.trials import trial_record
from hypothesis import given
from hypothesis import strategies as st

from tune_interpreg.search.choice import Choice, choose, digest_trials
from tune_interpreg.search.matching.estimate import estimate
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item
from tune_interpreg.study.metric_names import TRAIN_CE, TRAIN_LOSS, VAL_ADV_ACCURACY
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.study.space import Range, Search

SPACE = {"lambda": Range(log_uniform=(0.001, 1.0))}
BEST = Search(space=SPACE, maximize=VAL_ADV_ACCURACY)
MATCH = Search(space=SPACE, match_loss_of="robust")
TARGET = Target(loss=0.4, noise=0.01, error=0.005, reference="ab")
STRENGTHS = (0.002, 0.01, 0.05, 0.3)
TRIALS = [trial_record(number, {"lambda": strength}) for number, strength in enumerate(STRENGTHS)]
RESIDUALS = [2 * strength**0.5 - 0.4 for strength in STRENGTHS]


def rated(number: int, accuracy: float, state: ledger.RecordState = "done") -> Record:
    return trial_record(number, {"lambda": 0.01 * (number + 1)}, state, metrics={VAL_ADV_ACCURACY: accuracy})


def repeat_record(metrics: dict[int, dict[str, float]]) -> Record:
    item = Item(arm="robust", role="repeat", recipe=Recipe(method="standard"), seeds=tuple(metrics))
    return ledger.make_record(item, "done", metrics=metrics)


def repeat_records(*losses: float) -> list[Record]:
    return [repeat_record({seed: {TRAIN_LOSS: loss}}) for seed, loss in enumerate(losses)]


# ------------------------------------------------------------------- the best
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_best_metric_wins_and_the_earlier_trial_on_a_tie(values: list[float]) -> None:
    records = [rated(number, value) for number, value in enumerate(values)]
    for order in (records, records[::-1]):
        choice = choose(BEST, order, None)
        assert choice is not None
        assert choice.params == {"lambda": 0.01 * (values.index(max(values)) + 1)}


def test_only_done_trials_are_chosen() -> None:
    lost = [rated(0, 0.9, "failed"), rated(1, 0.9, "diverged"), rated(2, 0.9, "pruned")]
    assert choose(BEST, lost, None) is None
    assert choose(BEST, [], None) is None
    without_metric = trial_record(4, {"lambda": 0.5}, metrics={})
    choice = choose(BEST, [*lost, rated(3, 0.2), without_metric], None)
    assert choice is not None
    assert choice.params == {"lambda": 0.04}


# ------------------------------------------------------------------ the match
def test_a_matched_strength_is_the_estimated_root() -> None:
    match = estimate(STRENGTHS, RESIDUALS, bounds=(0.001, 1.0), noise=0.01, target=0.4)
    assert match.lambda_hat not in STRENGTHS
    assert choose(MATCH, TRIALS, TARGET) == Choice(
        params={"lambda": match.lambda_hat},
        trials=digest_trials(MATCH, TRIALS, "ab"),
        parameter="lambda",
        target=0.4,
        tolerance=0.005,
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
    )


def test_a_diverged_trial_was_too_strong_and_a_failed_trial_is_ignored() -> None:
    lost = [trial_record(3, {"lambda": 0.3}, "diverged"), trial_record(4, {"lambda": 0.4}, "failed")]
    choice = choose(MATCH, [*TRIALS[:3], *lost], TARGET)
    match = estimate(STRENGTHS, [*RESIDUALS[:3], math.inf], bounds=(0.001, 1.0), noise=0.01, target=0.4)
    assert choice is not None
    assert (choice.params["lambda"], choice.low, choice.high) == (match.lambda_hat, match.low, match.high)
    assert choose(MATCH, lost, TARGET) is None


def test_a_target_out_of_reach_is_infeasible() -> None:
    choice = choose(MATCH, TRIALS, Target(loss=5.0, noise=0.01, error=0.005, reference="ab"))
    assert choice is not None
    assert not choice.feasible
    assert choice.params == {"lambda": pytest.approx(1.0)}
    assert "below the target" in (choice.reason or "")


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
    assert target.reference == repeat_records(1.0)[0]["recipe_key"]


def test_each_seed_of_a_repeat_with_several_seeds_counts() -> None:
    together = repeat_record({seed: {TRAIN_LOSS: 1.0 + seed} for seed in range(3)})
    assert Target.from_repeats([together]) == Target.from_repeats(repeat_records(1.0, 2.0, 3.0))


def test_a_search_matches_the_total_loss_or_the_cross_entropy() -> None:
    repeats = [repeat_record({seed: {TRAIN_LOSS: 3.0 + seed, TRAIN_CE: 1.0 + seed} for seed in (0, 1)})]
    trial = trial_record(0, {"lambda": 0.1}, metrics={TRAIN_LOSS: 4.0, TRAIN_CE: 1.25})
    for loss, target_loss, residual in (("total", 3.5, 0.5), ("ce", 1.5, -0.25)):
        target = Target.from_repeats(repeats, MATCH.model_copy(update={"loss": loss}).matched_metric)
        assert (target.loss, target.residual(trial)) == (target_loss, residual)
    assert target.residual(trial_record(0, {"lambda": 0.1}, "diverged")) == math.inf
    assert target.residual(trial_record(0, {"lambda": 0.1}, "failed")) is None
