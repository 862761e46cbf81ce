"""The matching benchmark's problems and its section search, by closed form."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bench_matching as bench
from matching_families import FAMILIES, HELD_OUT, draw, recorded

INSIDE = {name: family for name, family in (FAMILIES | HELD_OUT).items() if family.parts[1] <= 1 <= 1 + family.parts[0]}


@pytest.mark.parametrize("name", INSIDE)
def test_a_curve_crosses_its_target_at_the_root(name: str) -> None:
    for repeat in range(3):
        problem = draw(INSIDE[name], 0.01, repeat)
        assert 0 < problem.root < 1
        assert bench.find_error(problem, problem.root) < 1e-6
        assert problem.curve(problem.root - 0.02) <= problem.target <= problem.curve(problem.root + 0.02)


def test_residuals_have_the_curves_mean_and_the_familys_spread() -> None:
    problem, rng = draw(FAMILIES["linear"], 0.05, 0), np.random.default_rng(0)
    residuals = [problem.residual(0.3, rng) for _ in range(4000)]
    assert np.mean(residuals) == pytest.approx(problem.curve(0.3) - problem.target, abs=0.004)
    assert np.std(residuals) == pytest.approx(0.05, rel=0.1)
    top = problem.curve(1.0) - problem.target
    collapsed = replace(problem, collapse=0.15)
    assert np.mean([collapsed.residual(0.0, rng) > top for _ in range(2000)]) == pytest.approx(0.15, abs=0.03)
    diverging = replace(problem, diverge=0.5)
    assert np.mean([diverging.residual(0.6, rng) == np.inf for _ in range(2000)]) == pytest.approx(0.5, abs=0.05)
    assert all(np.isfinite(diverging.residual(0.4, rng)) for _ in range(50))


@pytest.mark.parametrize(("workers", "width"), [(1, 2**-12), (4, 5**-3), (16, 1 / 13)])
def test_sections_divide_a_bracket_without_noise(workers: int, width: float) -> None:
    problem = draw(FAMILIES["staircase"], 0.0, 0)
    assert abs(bench.search_sections(problem, 12, workers).u - problem.root) <= width


def test_a_row_states_errors_coverage_and_goals() -> None:
    problems = [draw(FAMILIES["linear"], 0.01, repeat) for repeat in range(4)]
    row = bench.inside_row("linear, 1%", problems, 1e-9, 8, 4)
    assert row.count("|") == 9
    assert "TPE" in row, "the goal against TPE cannot be met"
    outside = [draw(FAMILIES["above the range"], 0.01, repeat) for repeat in range(3)]
    assert bench.outside_row("above", outside, 8, 4).endswith("| 3 of 3 |")


def test_recorded_curves_have_their_roots() -> None:
    for problems in recorded(2).values():
        assert all(bench.find_error(problem, problem.root) < 1e-6 for problem in problems)
