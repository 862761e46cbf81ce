"""What a search was for: the best trial, or the strength at which the loss matches."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_interpreg.search.choice import Choice, digest_trials
from tune_interpreg.search.choosing import choose
from tune_interpreg.search.matching.estimate import estimate
from tune_interpreg.search.target import Target
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.study.space import Range, Search

BEST = Search(space={"lambda": Range(log_uniform=(0.001, 1.0))}, maximize="val/adv_accuracy")
MATCH = Search(space={"lambda": Range(log_uniform=(0.001, 1.0))}, match_loss_of="robust")
TARGET = Target(loss=1.2, noise=0.01, error=0.005, reference="ab")


def record(number: int, strength: float, state: ledger.RecordState = "done", **metrics: float) -> Record:
    recipe = Recipe(method="jacobian", params={"lambda": strength, "norm": "batch"})
    item = Item(arm="arm", role="search", recipe=recipe, seeds=(0,), number=number)
    named = {name.replace("_", "/", 1): value for name, value in metrics.items()}
    return ledger.make_record(item, state, metrics={0: named} if named else {})


def repeats(*losses: float) -> list[Record]:
    recipe = Recipe(method="standard")
    items = [Item(arm="robust", role="repeat", recipe=recipe, seeds=(seed,)) for seed in range(len(losses))]
    return [
        ledger.make_record(item, "done", metrics={item.seeds[0]: {"train/loss": loss}})
        for item, loss in zip(items, losses, strict=True)
    ]


# ------------------------------------------------------------------- the best
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_best_metric_wins_and_the_earlier_trial_on_a_tie(values: list[float]) -> None:
    records = [record(n, 0.01 * (n + 1), val_adv_accuracy=value) for n, value in enumerate(values)]
    for order in (records, records[::-1]):
        chosen = choose(BEST, order, None)
        assert chosen is not None
        assert chosen.params == {"lambda": 0.01 * (values.index(max(values)) + 1)}


def test_the_loss_that_is_matched_is_all_of_it_or_the_cross_entropy_alone() -> None:
    ce = MATCH.model_copy(update={"loss": "ce"})
    known = {seed: {"train/loss": 3.0 + seed, "train/ce": 1.0 + seed} for seed in (0, 1)}
    item = Item(arm="robust", role="repeat", recipe=Recipe(method="standard"), seeds=(0, 1))
    done = ledger.make_record(item, "done", metrics=known)
    targets = {search.loss: Target.from_repeats([done], search.matched_metric) for search in (MATCH, ce)}
    assert {loss: target.loss for loss, target in targets.items()} == {"total": 3.5, "ce": 1.5}
    trial = record(0, 0.1, train_loss=4.0, train_ce=1.25)
    assert targets["total"].residual(trial) == 0.5
    assert targets["ce"].residual(trial) == -0.25
    assert digest_trials(ce, [trial], "ab") != digest_trials(MATCH, [trial], "ab")


def test_what_was_not_done_is_never_chosen() -> None:
    states: list[ledger.RecordState] = ["failed", "diverged", "pruned"]
    lost = [record(n, 0.1, state, val_adv_accuracy=0.9) for n, state in enumerate(states)]
    assert choose(BEST, lost, None) is None
    assert choose(BEST, [], None) is None
    chosen = choose(BEST, [*lost, record(3, 0.3, val_adv_accuracy=0.2), record(4, 0.4)], None)
    assert chosen is not None
    assert chosen.params == {"lambda": 0.3}


def test_only_what_was_searched_is_chosen() -> None:
    chosen = choose(BEST, [record(0, 0.3, val_adv_accuracy=0.2)], None)
    assert chosen == Choice(params={"lambda": 0.3}, trials=chosen.trials if chosen else "")


# ------------------------------------------------------------------ the match
STRENGTHS = (0.002, 0.01, 0.05, 0.3)


def test_a_matched_strength_is_the_estimated_root() -> None:
    records = [record(n, x, train_loss=1 + x**0.5) for n, x in enumerate(STRENGTHS)]
    chosen = choose(MATCH, records, TARGET)
    residuals = [1 + x**0.5 - 1.2 for x in STRENGTHS]
    match = estimate(STRENGTHS, residuals, bounds=(0.001, 1.0), noise=0.01, target=1.2)
    assert chosen == Choice(
        params={"lambda": match.lambda_hat},
        trials=digest_trials(MATCH, records, "ab"),
        parameter="lambda",
        target=1.2,
        tolerance=0.005,
        low=match.low,
        high=match.high,
        expected_residual=match.expected_residual,
        feasible=True,
    )
    assert match.lambda_hat not in STRENGTHS


def test_a_trial_that_diverged_was_too_strong_and_one_that_failed_says_nothing() -> None:
    done = [record(n, x, train_loss=1 + x**0.5) for n, x in enumerate(STRENGTHS[:3])]
    chosen = choose(MATCH, [*done, record(3, 0.3, "diverged"), record(4, 0.4, "failed")], TARGET)
    residuals = [*(1 + x**0.5 - 1.2 for x in STRENGTHS[:3]), math.inf]
    match = estimate(STRENGTHS, residuals, bounds=(0.001, 1.0), noise=0.01, target=1.2)
    assert chosen is not None
    assert (chosen.params["lambda"], chosen.low, chosen.high) == (match.lambda_hat, match.low, match.high)
    assert choose(MATCH, [record(0, 0.3, "diverged"), record(1, 0.1, "failed")], TARGET) is None


def test_a_target_out_of_reach_is_told() -> None:
    records = [record(n, x, train_loss=1 + x**0.5) for n, x in enumerate(STRENGTHS)]
    chosen = choose(MATCH, records, Target(loss=5.0, noise=0.01, error=0.005, reference="ab"))
    assert chosen is not None
    assert not chosen.feasible
    assert chosen.params == {"lambda": pytest.approx(1.0)}
    assert "below the target" in (chosen.reason or "")


def test_residuals_are_loss_minus_target() -> None:
    assert TARGET.residual(record(0, 0.1, train_loss=1.5)) == pytest.approx(0.3)
    assert TARGET.residual(record(0, 0.1, "diverged")) == math.inf
    assert TARGET.residual(record(0, 0.1, "failed")) is None


@pytest.mark.parametrize(
    ("losses", "loss", "noise"),
    [((1.0, 2.0, 3.0), 2.0, 1.0), ((2.0,), 2.0, 0.002), ((2.0, 2.0), 2.0, 0.002), ((0.0,), 0.0, 1e-12)],
)
def test_the_target_is_the_mean_loss_and_the_deviation_of_one_seed(
    losses: tuple[float, ...], loss: float, noise: float
) -> None:
    target = Target.from_repeats(repeats(*losses))
    assert (target.loss, target.noise) == (pytest.approx(loss), pytest.approx(noise))
    assert target.reference == repeats(1.0)[0]["recipe_key"]


def test_the_seeds_of_one_gpu_repeat_count_each() -> None:
    item = Item(arm="robust", role="repeat", recipe=Recipe(method="standard"), seeds=(0, 1, 2))
    together = ledger.make_record(item, "done", metrics={seed: {"train/loss": 1.0 + seed} for seed in item.seeds})
    assert Target.from_repeats([together]) == Target.from_repeats(repeats(1.0, 2.0, 3.0))


# ------------------------------------------------------------------ the basis
def test_a_choice_rests_on_goal_trials_and_reference_and_on_no_more() -> None:
    records = [record(n, x, train_loss=1 + x**0.5) for n, x in enumerate(STRENGTHS)]
    basis = digest_trials(MATCH, records, "ab")
    others: list[tuple[Any, ...]] = [
        (MATCH, [*records, record(4, 0.4)], "ab"),
        (MATCH, records[:3], "ab"),
        (MATCH, [*records[:3], record(3, 0.3, "failed")], "ab"),
        (MATCH, [*records[:3], record(3, 0.31)], "ab"),
        (MATCH, records, "cd"),
        (BEST, records, None),
        (BEST.model_copy(update={"maximize": "val/accuracy"}), records, None),
        (MATCH.model_copy(update={"space": {"lambda": Range(log_uniform=(0.001, 2.0))}}), records, "ab"),
    ]
    assert len({basis, *(digest_trials(*other) for other in others)}) == len(others) + 1
    same = MATCH.model_copy(update={"trials": 99})
    assert digest_trials(same, [one | {"seconds": 9.0, "device": "x"} for one in records], "ab") == basis
