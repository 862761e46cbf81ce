"""The digest of a choice, the Pareto front against its definition, and the rule that picks a point of it."""

from typing import Any

import pytest
from helpers.trials import trial_record
from hypothesis import given
from hypothesis import strategies as st

from tune_interpreg.search.choice import best_trial, choose, digest_trials, pareto_front
from tune_interpreg.store.store import Record
from tune_interpreg.study.metric_names import VAL_ACCURACY, VAL_ADV_ACCURACY
from tune_interpreg.study.space import Range, Search

SPACE = {"lambda": {"log_uniform": (0.001, 1.0)}}
BEST = Search(space=SPACE, maximize=VAL_ADV_ACCURACY)
MATCH = Search(space=SPACE, match_loss_of="robust")
LEVELS = st.sampled_from([0.1, 0.2, 0.3, 0.4])


def points(values: list[tuple[float, float]]) -> list[Record]:
    return [
        trial_record(number, {"lambda": 0.001 * (number + 1)}, metrics={VAL_ACCURACY: clean, VAL_ADV_ACCURACY: adv})
        for number, (clean, adv) in enumerate(values)
    ]


def two_goals(within: float) -> Search:
    rule = {"best": VAL_ADV_ACCURACY, "within": {VAL_ACCURACY: within}}
    return Search(space=SPACE, maximize=(VAL_ACCURACY, VAL_ADV_ACCURACY), pick=rule)


def test_the_digest_covers_goal_trials_and_reference_only() -> None:
    records = [trial_record(number, {"lambda": 0.01 * (number + 1)}) for number in range(4)]
    digest = digest_trials(MATCH, records, "ab")
    others: list[tuple[Any, ...]] = [
        (MATCH, [*records, trial_record(4, {"lambda": 0.4})], "ab"),
        (MATCH, records[:3], "ab"),
        (MATCH, [*records[:3], trial_record(3, {"lambda": 0.04}, "failed")], "ab"),
        (MATCH, [*records[:3], trial_record(3, {"lambda": 0.041})], "ab"),
        (MATCH, records, "cd"),
        (MATCH.model_copy(update={"loss": "ce"}), records, "ab"),
        (MATCH.model_copy(update={"space": {"lambda": Range(log_uniform=(0.001, 2.0))}}), records, "ab"),
        (BEST, records, None),
        (BEST.model_copy(update={"maximize": VAL_ACCURACY}), records, None),
    ]
    assert len({digest, *(digest_trials(*other) for other in others)}) == len(others) + 1
    same = MATCH.model_copy(update={"trials": 99})
    assert digest_trials(same, [record | {"seconds": 9.0, "device": "x"} for record in records], "ab") == digest


@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=12))
def test_the_front_holds_the_points_that_no_other_point_dominates(values: list[tuple[float, float]]) -> None:
    front = {record["number"] for record in pareto_front(two_goals(0.0), points(values))}
    for number, (clean, adv) in enumerate(values):
        dominated = any(other != (clean, adv) and other[0] >= clean and other[1] >= adv for other in values)
        assert (number in front) == (not dominated)


@pytest.mark.parametrize(("within", "number"), [(0.0, 0), (0.015, 1), (0.04, 2), (1.0, 3)])
def test_the_rule_picks_the_best_point_near_enough_to_the_other_metrics_best(within: float, number: int) -> None:
    records = points([(0.99, 0.3), (0.98, 0.5), (0.95, 0.6), (0.90, 0.9), (0.89, 0.8)])
    picked = best_trial(two_goals(within), records)
    assert picked is not None
    assert picked["number"] == number
    choice = choose(two_goals(within), records, None)
    assert choice is not None
    assert (choice.params, choice.front) == ({"lambda": 0.001 * (number + 1)}, (0, 1, 2, 3))


def test_a_trial_without_one_of_the_metrics_is_no_point() -> None:
    record = trial_record(0, {"lambda": 0.1}, metrics={VAL_ACCURACY: 0.9})
    assert best_trial(two_goals(0.1), [record]) is None
    assert choose(two_goals(0.1), [record], None) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"grid": {"lambda": [1, 2]}, "maximize": VAL_ADV_ACCURACY, "trials": 3}, "trials"),
        ({"grid": {"lambda": [1, 1]}, "maximize": VAL_ADV_ACCURACY}, "lambda"),
        ({"grid": {"lambda": [1, 2]}, "match_loss_of": "a"}, "grid"),
        ({"maximize": VAL_ADV_ACCURACY}, "space"),
        ({"space": SPACE, "maximize": [VAL_ADV_ACCURACY, VAL_ACCURACY]}, "pick"),
        ({"space": SPACE, "maximize": [VAL_ADV_ACCURACY]}, "maximize"),
        ({"space": SPACE, "maximize": VAL_ADV_ACCURACY, "pick": {"best": VAL_ADV_ACCURACY}}, "pick"),
        ({"space": SPACE, "maximize": VAL_ADV_ACCURACY, "anchor": "a"}, "anchor"),
        ({"space": SPACE, "match_loss_of": "a", "sampler": "gp"}, "sampler"),
        ({"space": SPACE | {"phi": {"choice": [0, 1]}}, "match_loss_of": "a", "trials": 5}, "trials"),
        ({"space": SPACE | {"phi": {"uniform": (0, 1)}}, "match_loss_of": "a"}, "phi"),
    ],
)
def test_a_contradictory_search_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Search.model_validate(changes)
