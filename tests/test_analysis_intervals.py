"""Student t intervals against closed forms and against their promised coverage."""

import math

import numpy as np
import pytest

from analysis.intervals import Interval, paired, student_t


def test_five_values_by_hand():
    # mean 3, s² = (4 + 1 + 0 + 1 + 4)/4 = 2.5, t_{0.975, 4} = 2.776445
    interval = student_t([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval.mean == 3.0
    assert interval.half_width == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert interval.n == 5


def test_two_values_by_hand():
    # t_{0.975, 1} = 12.7062, s/√2 = |b − a|/2
    assert student_t([0.0, 2.0]).half_width == pytest.approx(12.7062, rel=1e-5)


def test_one_value_has_a_mean_and_no_interval():
    assert student_t([0.25]) == Interval(0.25, None, 1)


def test_equal_values_have_width_zero():
    assert student_t([0.5] * 5) == Interval(0.5, 0.0, 5)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_nothing_and_what_is_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="one finite value or more"):
        student_t(values)


def test_scaling_keeps_n():
    assert Interval(0.5, 0.25, 5).scaled(100) == Interval(50.0, 25.0, 5)
    assert Interval(0.5, None, 1).scaled(100) == Interval(50.0, None, 1)


def test_pairs_are_matched_by_seed_not_by_order():
    ours = {4: 1.1, 0: 2.1, 2: 3.1, 9: 7.0}
    theirs = {0: 2.0, 2: 3.0, 4: 1.0}
    residual = paired(ours, theirs)
    assert residual.mean == pytest.approx(0.1)
    assert residual.half_width == pytest.approx(0.0, abs=1e-12)
    assert residual.n == 3


def test_pairs_without_a_common_seed_are_refused():
    with pytest.raises(ValueError, match="one finite value or more"):
        paired({0: 1.0}, {1: 1.0})


def test_coverage_at_five_seeds_is_95_percent():
    trials = 4000
    draws = np.random.default_rng(0).normal(loc=0.7, scale=0.02, size=(trials, 5))
    intervals = [student_t(x) for x in draws]
    covered = np.mean([abs(i.mean - 0.7) <= i.half_width for i in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)
