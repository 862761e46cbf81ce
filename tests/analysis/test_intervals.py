"""Student t and Wilson intervals against closed forms and against their stated coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics.intervals import Interval, paired_differences, student_t, subtract, wilson


def test_five_values_by_hand():
    # mean 3, s² = (4 + 1 + 0 + 1 + 4)/4 = 2.5, t_{0.975, 4} = 2.776445
    interval = student_t([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (interval.mean, interval.n) == (3.0, 5)
    assert interval.half_width == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert student_t([0.25]) == Interval(0.25, None, 1)
    assert Interval(0.5, None, 1, (0.25, 1.0)).scaled(100) == Interval(50.0, None, 1, (25.0, 100.0))


@pytest.mark.parametrize("values", [[0.5] * 5, [0.1 + 0.2, 0.3, 0.3]])
def test_equal_values_have_width_zero_whatever_their_rounding(values):
    assert student_t(values).half_width == 0.0


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_value_and_infinite_values_are_refused(values):
    with pytest.raises(ValueError):
        student_t(values)


def test_pairs_are_matched_by_seed_not_by_order():
    ours = {4: 1.1, 0: 2.1, 2: 3.1, 9: 7.0}
    theirs = {0: 2.0, 2: 3.0, 4: 1.0}
    assert paired_differences(ours, theirs) == {0: 0.1, 2: 0.1, 4: 0.1}


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(-1000, 1000), st.sampled_from([1e-6, 1, 1e6]))
def test_equal_differences_of_shares_are_equal_bit_for_bit(ours, theirs, shift, unit):
    """Shares of 1,000 images, in any unit. Differences of equal differences are exactly 0."""
    first = subtract(unit * ours / 1000, unit * theirs / 1000)
    assert first == pytest.approx(unit * (ours - theirs) / 1000, rel=1e-9, abs=1e-12 * unit)
    second = subtract(unit * (ours + shift) / 1000, unit * (theirs + shift) / 1000)
    assert subtract(first, second) == 0


def test_the_sign_of_an_interval_and_its_margin():
    above, below, astride = Interval(0.3, 0.2, 5), Interval(-0.3, 0.2, 5), Interval(0.1, 0.2, 5)
    assert [interval.sign for interval in (above, below, astride)] == [1, -1, 0]
    assert above.ends == pytest.approx((0.1, 0.5))
    assert above.lies_within(0.5)
    assert not above.lies_within(0.4)


@pytest.mark.parametrize("interval", [Interval(0.3, None, 1), Interval(0.3, 0.0, 5)])
def test_an_interval_without_width_shows_nothing(interval):
    assert interval.sign == 0
    assert not interval.lies_within(1.0)


@pytest.mark.parametrize(("share", "images"), [(0.0, 50), (1.0, 50), (0.37, 7), (0.9, 100), (0.99, 10_000)])
def test_wilson_is_scipys(share, images):
    expected = stats.binomtest(round(share * images), images).proportion_ci(0.95, "wilson")
    assert wilson(round(share * images) / images, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_paired_coverage_at_five_seeds_is_95_percent():
    """Also if the seeds differ far more than the arms do, because pairing removes the seeds' variation."""
    rng, trials = np.random.default_rng(1), 2000
    seeds = rng.normal(scale=0.1, size=(trials, 5))
    ours, theirs = (seeds + rng.normal(mean, 0.01, size=(trials, 5)) for mean in (0.72, 0.70))
    intervals = [
        student_t(paired_differences(dict(enumerate(x)), dict(enumerate(y))).values())
        for x, y in zip(ours.tolist(), theirs.tolist(), strict=True)
    ]
    covered = np.mean([abs(i.mean - 0.02) <= i.half_width for i in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)
    assert np.median([i.half_width for i in intervals]) < 0.03
