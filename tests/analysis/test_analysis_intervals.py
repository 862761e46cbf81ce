"""Student t intervals against closed forms and against their promised coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics.intervals import Interval, difference, paired, student_t, wilson


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


def test_equal_values_have_width_zero_however_they_are_rounded():
    assert paired(dict.fromkeys(range(5), 0.7 + 0.1), {s: 0.5 + s % 2 * 1e-17 for s in range(5)}).half_width == 0.0
    assert student_t([0.1 + 0.2, 0.3, 0.3]).half_width == 0.0


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(-1000, 1000), st.sampled_from([1e-6, 1, 1e6]))
def test_equal_differences_of_shares_are_equal_bit_for_bit(ours, theirs, shift, unit):
    """Of shares of 1,000 images, in any unit; so are differences of differences, which are 0 where they should be."""
    first = difference(unit * ours / 1000, unit * theirs / 1000)
    assert first == pytest.approx(unit * (ours - theirs) / 1000, rel=1e-9, abs=1e-12 * unit)
    second = difference(unit * (ours + shift) / 1000, unit * (theirs + shift) / 1000)
    assert difference(first, second) == 0


def test_what_is_not_finite_stays_so():
    assert math.isnan(difference(math.nan, 1))
    assert difference(math.inf, 1) == math.inf


def test_an_interval_says_what_it_shows():
    above, below, astride = Interval(0.3, 0.2, 5), Interval(-0.3, 0.2, 5), Interval(0.1, 0.2, 5)
    assert [interval.sign for interval in (above, below, astride)] == [1, -1, 0]
    assert (above.low, above.high) == pytest.approx((0.1, 0.5))
    assert above.inside(0.5)
    assert not above.inside(0.4)


@pytest.mark.parametrize("interval", [Interval(0.3, None, 1), Interval(0.3, 0.0, 5)])
def test_one_seed_or_seeds_without_spread_show_nothing(interval):
    assert interval.sign == 0
    assert not interval.inside(1.0)


def test_wilson_by_hand():
    # p = 0.9, N = 100, z = 1.959964: (0.9 + 0.0192073 ± 0.0618564) / 1.0384146
    assert wilson(0.9, 100) == pytest.approx((0.825634, 0.944771), abs=1e-6)


@pytest.mark.parametrize(("share", "images"), [(0.0, 50), (1.0, 50), (0.37, 7), (0.99, 10_000)])
def test_wilson_is_scipys(share, images):
    known = stats.binomtest(round(share * images), images).proportion_ci(0.95, "wilson")
    assert wilson(round(share * images) / images, images) == pytest.approx((known.low, known.high), abs=1e-12)


def test_wilsons_interval_covers_95_percent_at_1000_images():
    right = np.arange(1001)
    low, high = np.array([wilson(k / 1000, 1000) for k in right]).T
    accuracies = np.linspace(0.02, 0.98, 49)
    covered = [stats.binom.pmf(right[(low <= p) & (p <= high)], 1000, p).sum() for p in accuracies]
    assert min(covered) > 0.93
    assert abs(np.mean(covered) - 0.95) < 0.003


def test_wilsons_coverage_by_simulation():
    drawn = np.random.default_rng(0).binomial(360, 0.72, size=4000)
    intervals = {k: wilson(k / 360, 360) for k in set(drawn.tolist())}
    covered = np.mean([intervals[k][0] <= 0.72 <= intervals[k][1] for k in drawn.tolist()])
    assert abs(covered - 0.95) < 0.02


def test_paired_coverage_at_five_seeds_is_95_percent():
    """Also where the seeds themselves differ far more than the arms do: pairs take that out."""
    rng, trials = np.random.default_rng(1), 4000
    seeds = rng.normal(scale=0.1, size=(trials, 5))
    ours, theirs = (seeds + rng.normal(mean, 0.01, size=(trials, 5)) for mean in (0.72, 0.70))
    intervals = [
        paired(dict(enumerate(x)), dict(enumerate(y))) for x, y in zip(ours.tolist(), theirs.tolist(), strict=True)
    ]
    covered = np.mean([abs(i.mean - 0.02) <= i.half_width for i in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)
    assert np.median([i.half_width for i in intervals]) < 0.03


def test_coverage_at_five_seeds_is_95_percent():
    trials = 4000
    draws = np.random.default_rng(0).normal(loc=0.7, scale=0.02, size=(trials, 5))
    intervals = [student_t(x) for x in draws]
    covered = np.mean([abs(i.mean - 0.7) <= i.half_width for i in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)
