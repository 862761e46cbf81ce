"""Spearman's ρ over models, its partial form, and the coverage of the bootstrap over seeds."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from analysis.statistics import association
from analysis.statistics.association import partial_spearman, spearman

pytestmark = pytest.mark.thorough

SEEDS, ARMS = 5, 6
TIES = st.integers(-5, 5)


@given(st.lists(st.tuples(TIES, TIES, st.integers(1, 3)), min_size=3, max_size=20))
def test_spearman_is_scipys_with_ties_and_repeated_models(rows: list[tuple[int, int, int]]) -> None:
    """The second sample holds each model one to three times."""
    x_M, y_M, times_M = np.array(rows).T
    expected = [0.0, 0.0]
    if len(set(x_M)) > 1 and len(set(y_M)) > 1:
        samples = ((x_M, y_M), (np.repeat(x_M, times_M), np.repeat(y_M, times_M)))
        expected = [scipy.stats.spearmanr(*sample).statistic for sample in samples]
    assert spearman(x_M, y_M, count_RM=np.stack([np.ones_like(times_M), times_M])) == pytest.approx(expected)


def test_the_partial_form_is_the_correlation_of_residuals_of_ranks() -> None:
    """The residuals of the ranks of x and y after regression on the ranks of z, by least squares."""
    x_M, y_M, z_M = np.random.default_rng(0).normal(size=(3, 30))
    x_M, y_M = x_M + z_M, y_M - z_M
    design_MD = np.stack([np.ones(30), scipy.stats.rankdata(z_M)], 1)
    residuals = []
    for values_M in (x_M, y_M):
        ranks_M = scipy.stats.rankdata(values_M)
        residuals.append(ranks_M - design_MD @ np.linalg.lstsq(design_MD, ranks_M, rcond=None)[0])
    once = np.ones((1, 30))
    assert partial_spearman(x_M, y_M, z_M, count_RM=once) == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert partial_spearman(x_M, y_M, x_M, count_RM=once) == 0


def test_measures_of_one_order_have_a_correlation_of_one() -> None:
    values = [float(m) for m in range(10)]
    interval = association.association(values, [math.exp(v) for v in values], [m % 5 for m in range(10)])
    assert interval is not None
    assert (interval.mean, interval.n, interval.sign) == (pytest.approx(1.0), 10, 1)
    single = association.association(values, values, [0] * 10)
    assert single is not None
    assert single.ends is None
    assert association.association(values[:2], values[:2], [0, 1]) is None


def simulate(studies: int, seeds: int, generator: np.random.Generator) -> np.ndarray:
    """Return x and y of the models of studies: fixed arms, and a shared and an own deviation of each seed."""
    arms_A2 = np.stack([np.linspace(-1, 1, ARMS), np.linspace(-1, 1, ARMS) ** 3], -1)
    shared, own = (generator.normal(size=(studies, seeds, size, 2)) for size in (1, ARMS))
    return arms_A2 + 0.5 * shared + 0.7 * own


@pytest.mark.parametrize("partial", [False, True])
def test_the_interval_covers_the_correlation_over_all_seeds(partial: bool) -> None:
    """n = 60 studies of 5 seeds; nominal 95%, at least 52 of 60 with a probability above 99%."""
    generator = np.random.default_rng(1)
    many_2M = simulate(1, 4000, generator)[0].reshape(-1, 2).T
    rho_33 = scipy.stats.spearmanr([*many_2M, generator.normal(size=4000 * ARMS)], axis=1).statistic
    precision_33 = np.linalg.inv(rho_33)
    truth = -precision_33[0, 1] / (precision_33[0, 0] * precision_33[1, 1]) ** 0.5 if partial else rho_33[0, 1]
    seeds, hits, studies = np.repeat(np.arange(SEEDS), ARMS).tolist(), 0, simulate(60, SEEDS, generator)
    for study in studies:
        third = generator.normal(size=SEEDS * ARMS).tolist() if partial else None
        interval = association.association(study[..., 0].ravel(), study[..., 1].ravel(), seeds, third)
        assert interval is not None
        assert interval.ends is not None
        hits += interval.ends[0] <= truth <= interval.ends[1]
    assert hits >= 52
