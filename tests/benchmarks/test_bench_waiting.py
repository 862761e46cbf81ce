"""The simulation of waiting searches: equal where nothing waits, longer where a straggler holds a search up."""

import sys
from pathlib import Path

import pytest
from helpers.closed_form import study
from helpers.studies import parse_study

sys.path.insert(0, str(Path(__file__).parent))
import bench_waiting

SPACE = "space: {lambda_j: {uniform: [0, 1]}}"
SEARCH = f"{{method: jacobian, search: {{maximize: val/adv_accuracy, trials: 8, parallel: 2, {SPACE}}}}}"


def test_one_worker_never_waits_and_equal_times_cost_nothing() -> None:
    of = study("standard", arm=SEARCH)
    for repeat in range(3):
        assert bench_waiting.measure(of, 1, 1.0, repeat) == (1.0, 1.0, 1.0)
    assert bench_waiting.measure(of, 2, 0.0, 0)[0] == pytest.approx(1.0)


def test_stragglers_hold_a_search_up_if_nothing_else_fills_the_workers() -> None:
    of = parse_study(f"data: digits\nchecks: null\nseeds: [0]\narms: {{arm: {SEARCH}}}\n")
    ratios = [bench_waiting.measure(of, 2, 1.5, repeat)[0] for repeat in range(10)]
    assert min(ratios) >= 0.9
    assert max(ratios) > 1.05
