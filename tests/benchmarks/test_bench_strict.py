"""The goals and the page of the benchmark of the strict attack, from hand-made rows."""

import bench_strict
import pytest

from tune_interpreg.study.config import Attack

ATTACKS = {"l2": Attack(norm="l2", eps=0.5)}


def row(strict: float = 60.0, *, ensemble: float = 60.0, peer: float = 62.0, scaled: float = 60.0, cost: float = 2.0):
    scales = {f"strict × {scale:g}": scaled for scale in bench_strict.SCALES}
    values = {"clean": 98.0, "compat": 65.0, "strict": strict, "cost": cost, "foolbox": peer, "AutoAttack": ensemble}
    return values | scales


@pytest.mark.parametrize(
    ("goal", "worse"),
    [
        ("above AutoAttack", {"ensemble": 58.5}),
        ("above the best of foolbox", {"peer": 59.0}),
        ("between scales", {"scaled": 61.0}),
        ("times the processor time", {"cost": 2.6}),
    ],
)
def test_the_worst_model_decides_each_goal(goal: str, worse: dict[str, float]) -> None:
    rows = {("l2", "standard", 0): row(), ("l2", "standard", 1): row(**worse)}
    assert [text for met, text in bench_strict.goals(rows, ["foolbox"]) if not met and goal in text]
    assert all(met for met, _ in bench_strict.goals({("l2", "standard", 0): row()}, ["foolbox"]))


def test_the_page_has_means_over_seeds_and_the_largest_cost() -> None:
    rows = {("l2", "standard", seed): row(60.0 + seed, cost=1.5 + seed / 2) for seed in range(2)}
    page = bench_strict.page(rows, ATTACKS, 200, ["foolbox"])
    assert "| l2 | standard | 98.0 | 65.0 | 60.5 | 62.0 | 60.0 | 2.00 |" in page
    assert "l2: ε = 0.5, 40 steps" in page
