"""Several metrics: the Pareto front against its definition, the rule that picks, and grids as whole studies."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from helpers.closed_form import drain, study
from hypothesis import given
from hypothesis import strategies as st

from tune_interpreg.search.choice import pareto_front, pick
from tune_interpreg.search.choosing import choose
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.study.space import Search

CLEAN, ADV = "val/accuracy", "val/adv_accuracy"
SPACE = {"lambda": {"log_uniform": (0.001, 1.0)}}
LEVELS = st.sampled_from([0.1, 0.2, 0.3, 0.4])


def record(number: int, **metrics: float) -> Record:
    recipe = Recipe(method="jacobian", params={"lambda": 0.001 * (number + 1)})
    item = Item(arm="arm", role="search", recipe=recipe, seeds=(0,), number=number)
    return ledger.make_record(item, "done", metrics={0: {f"val/{name}": value for name, value in metrics.items()}})


def points(values: list[tuple[float, float]]) -> list[Record]:
    return [record(number, accuracy=clean, adv_accuracy=adv) for number, (clean, adv) in enumerate(values)]


def search(best: str = ADV, **within: float) -> Search:
    rule = {"best": best, "within": {f"val/{name}": value for name, value in within.items()}}
    return Search(space=SPACE, maximize=(CLEAN, ADV), pick=rule)


@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_beats(values: list[tuple[float, float]]) -> None:
    found = {one["number"] for one in pareto_front(points(values), (CLEAN, ADV))}
    for number, own in enumerate(values):
        beaten = any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in values)
        assert (number in found) == (not beaten)


def test_the_rule_picks_the_best_point_that_gives_up_little_enough() -> None:
    front = points([(0.99, 0.3), (0.98, 0.5), (0.95, 0.6), (0.90, 0.9), (0.89, 0.8)])
    for within, number in ((0.0, 0), (0.015, 1), (0.04, 2), (1.0, 3)):
        picked = pick(search(accuracy=within), front)
        assert picked is not None
        assert picked["number"] == number
    chosen = choose(search(accuracy=0.015), front, None)
    assert chosen is not None
    assert (chosen.params, chosen.front) == ({"lambda": 0.002}, (0, 1, 2, 3))


def test_a_trial_without_one_of_the_metrics_is_no_point() -> None:
    assert pick(search(), [record(0, accuracy=0.9)]) is None
    assert choose(search(), [record(0, accuracy=0.9)], None) is None


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_each_sampler_proposes_for_one_and_for_several_metrics(tmp_path: Path, sampler: str) -> None:
    space = "space: {lambda_j: {log_uniform: [0.001, 1.0]}}"
    one = f"{{method: jacobian, search: {{maximize: {ADV}, sampler: {sampler}, trials: 7, {space}}}}}"
    rule = f"maximize: [{CLEAN}, {ADV}], pick: {{best: {ADV}, within: {{{CLEAN}: 0.01}}}}"
    two = f"{{method: jacobian, search: {{{rule}, sampler: {sampler}, trials: 7, {space}}}}}"
    of, store = study("standard", one=one, two=two), Store(tmp_path)
    ran = drain(of, store, workers=2)
    tried = {arm: {item.recipe.params["lambda_j"] for item in ran if item.arm == arm} for arm in ("one", "two")}
    assert {arm: len(values) for arm, values in tried.items()} == {"one": 7, "two": 7}
    kept = store.read_choice("two")
    assert kept is not None
    assert kept["front"]
    assert drain(of, store) == []


# ------------------------------------------------------------------------- grids
def test_a_grid_tries_every_combination_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    grid = "grid: {lambda_j: [0.01, 0.1, 1.0], norm: [batch, sample]}"
    of = study("standard", arm=f"{{method: jacobian, search: {{maximize: {ADV}, {grid}}}}}")
    ran = drain(of, Store(tmp_path), workers=3)
    tried = [item.recipe.params for item in ran if item.role == "search"]
    assert [(one["lambda_j"], one["norm"]) for one in tried] == list(product([0.01, 0.1, 1.0], ["batch", "sample"]))
    (chosen,) = {item.recipe.params["lambda_j"] for item in ran if (item.arm, item.role) == ("arm", "repeat")}
    assert chosen == 0.1
    assert drain(of, Store(tmp_path)) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grid": {"lambda": [1, 2]}, "maximize": ADV, "trials": 3}, "2 here; drop trials"),
        ({"grid": {"lambda": [1, 1]}, "maximize": ADV}, "each value of lambda may stand once"),
        ({"grid": {"lambda": [1, 2]}, "match_loss_of": "a"}, "no grid"),
        ({"grid": {"lambda": [1]}, "space": SPACE, "maximize": ADV}, "exactly one of space, grid, got both"),
        ({"maximize": ADV}, "is required"),
        ({"space": SPACE, "maximize": [ADV, CLEAN]}, "need a rule for the front"),
        ({"space": SPACE, "maximize": [ADV]}, "several different ones"),
        ({"space": SPACE, "maximize": ADV, "pick": {"best": ADV}}, "one metric needs no pick"),
        ({"space": SPACE, "maximize": ADV, "anchor": "a"}, "anchor is of a search with match_loss_of"),
        ({"space": SPACE, "match_loss_of": "a", "sampler": "gp"}, "sampler is of a search that maximizes"),
        ({"space": SPACE, "match_loss_of": "a", "tolerance": 0}, "greater than 0"),
        ({"space": SPACE | {"phi": {"choice": [0, 1]}}, "match_loss_of": "a", "trials": 5}, "at least 6 trials"),
        ({"space": SPACE | {"phi": {"uniform": (0, 1)}}, "match_loss_of": "a"}, "others by choice"),
    ],
)
def test_a_search_that_contradicts_itself_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Search.model_validate(given)
