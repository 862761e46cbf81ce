"""Paired tests against SciPy, Holm against its error rate, effect sizes against their distribution."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.intervals import Interval
from analysis.statistics.pairs import LARGE_T, Comparison, effect_size, holm


def by_seed(values):
    return dict(enumerate(map(float, values)))


def test_differences_by_hand():
    # differences 1, 2, 3, 4, 5: t = 3·√5/√2.5 = 4.2426, 4 degrees of freedom
    comparison = Comparison.from_seeds(by_seed([2, 4, 6, 8, 10]), by_seed([1, 2, 3, 4, 5]))
    assert (comparison.difference.mean, comparison.n) == (3.0, 5)
    assert comparison.t == pytest.approx(3 * math.sqrt(5 / 2.5))
    assert comparison.p == pytest.approx(0.0132362, rel=1e-4)
    # J(4) = Γ(2)/(√2·Γ(1.5)) = 0.797885, d_z = 3/√2.5
    assert comparison.effect.mean == pytest.approx(0.797885 * 3 / math.sqrt(2.5), rel=1e-5)


def test_p_is_that_of_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    for n in (2, 5, 12):
        ours, theirs = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
        expected = stats.ttest_rel(ours, theirs)
        comparison = Comparison.from_seeds(by_seed(ours), by_seed(theirs))
        assert (comparison.t, comparison.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


def test_only_common_seeds_are_paired():
    comparison = Comparison.from_seeds({0: 1.0, 1: 2.0, 3: 9.0}, {3: 5.0, 1: 1.0, 7: 0.0})
    assert (comparison.difference.mean, comparison.n) == (2.5, 2)
    assert comparison.p is not None
    assert comparison.effect is None, "of two pairs d_z has no mean"


@pytest.mark.parametrize(
    ("ours", "theirs", "n"),
    [
        ([1.0], [0.5], 1),  # one seed
        ([0.9, 0.8, 0.7], [0.8, 0.7, 0.6], 3),  # the same difference in every seed, up to rounding
        ([0.9, 0.8], [0.9, 0.8], 2),
        ([], [1.0], 0),
    ],
)
def test_without_spread_or_pairs_there_is_a_difference_and_no_p(ours, theirs, n):
    comparison = Comparison.from_seeds(by_seed(ours), by_seed(theirs))
    assert (comparison.n, comparison.t, comparison.p, comparison.effect) == (n, None, None, None)
    assert (comparison.difference is None) == (n == 0)


def test_the_rounding_of_equal_differences_is_not_significant():
    gained = Comparison.from_seeds({0: 0.816, 1: 0.716, 2: 0.331, 3: 0.58}, {0: 0.815, 1: 0.715, 2: 0.33, 3: 0.579})
    assert (gained.difference, gained.p) == (Interval(0.001, 0.0, 4), None)


# ------------------------------------------------------------------------------- Holm
def test_holm_by_hand():
    # sorted .01·4, .02·3 = .06, .03·2 = .06, .04·1 raised to .06
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("shifts", [(0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0.03, 0.06)])
def test_holms_family_wise_error_is_at_most_5_percent(shifts):
    """Six arms of five seeds, all pairs, without any difference and with some real ones."""
    rng, studies = np.random.default_rng(2), 1500
    x_TAS = rng.normal(0.7, 0.01, size=(studies, 6, 5)) + np.reshape(shifts, (6, 1))
    pairs = [(a, b) for a in range(6) for b in range(a)]
    p_TP = np.stack([stats.ttest_rel(x_TAS[:, a], x_TAS[:, b], axis=1).pvalue for a, b in pairs], axis=1)
    null = [place for place, (a, b) in enumerate(pairs) if shifts[a] == shifts[b]]
    wrong = np.mean([min(holm(p_P)[place] for place in null) <= 0.05 for p_P in p_TP.tolist()])
    alone = np.mean(p_TP[:, null].min(axis=1) <= 0.05)
    assert wrong <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / studies)
    assert alone > 0.15, "the uncorrected tests err far more often"


# ------------------------------------------------------------------------ effect size
@pytest.mark.parametrize(("t", "n"), [(0.5, 5), (10.0, 5), (1e3, 3), (15.0, 30), (-4.0, 4)])
def test_the_bounds_are_quantiles_of_a_simulation(t, n):
    """δ is a quantile of t·S + Z, which is sampled here, independent of SciPy's noncentral t."""
    rng, draws = np.random.default_rng(3), 400_000
    w = t * np.sqrt(rng.chisquare(n - 1, draws) / (n - 1)) + rng.normal(size=draws)
    drawn = np.quantile(w, [0.025, 0.975]) / math.sqrt(n)
    assert effect_size(t, n).bounds == pytest.approx(drawn, rel=0.02, abs=0.01)


def test_the_interval_of_the_effect_covers_95_percent_and_its_mean_has_no_bias():
    rng, trials, true = np.random.default_rng(4), 500, 1.2
    x_TS = rng.normal(true, 1, size=(trials, 5))
    effects = [effect_size(float(t), 5) for t in stats.ttest_1samp(x_TS, 0, axis=1).statistic]
    covered = np.mean([effect.bounds[0] <= true <= effect.bounds[1] for effect in effects])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)
    assert np.mean([effect.mean for effect in effects]) == pytest.approx(true, abs=0.15)


def test_effects_of_any_size_have_an_interval():
    """Also if SciPy's noncentral t gives NaN far from its centre, and beyond ``LARGE_T``."""
    for n in (3, 5, 20):
        for t in (0.0, 1e-3, 3.0, 10.0, 50.0, 0.99 * LARGE_T, 1.01 * LARGE_T, 1e9):
            effect, mirrored = effect_size(t, n), effect_size(-t, n)
            low, high = effect.bounds
            assert low <= effect.mean <= high
            assert mirrored.bounds == pytest.approx((-high, -low), abs=1e-5)
    low, high = effect_size(0.999 * LARGE_T, 5), effect_size(1.001 * LARGE_T, 5)
    assert low.bounds == pytest.approx(high.bounds, rel=0.003)
