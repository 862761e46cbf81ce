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


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=20))
def test_spearman_is_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    x_M, y_M = np.array(pairs, dtype=float).T
    if len(set(x_M)) == 1 or len(set(y_M)) == 1:
        assert spearman(x_M, y_M) == 0
    else:
        assert spearman(x_M, y_M) == pytest.approx(scipy.stats.spearmanr(x_M, y_M).statistic)


def test_the_partial_form_is_the_correlation_of_residuals_of_ranks() -> None:
    """The residuals of the ranks of x and y after regression on the ranks of z, by least squares."""
    x_M, y_M, z_M = np.random.default_rng(0).normal(size=(3, 30))
    x_M, y_M = x_M + z_M, y_M - z_M
    design_MD = np.stack([np.ones(30), scipy.stats.rankdata(z_M)], 1)
    residuals = []
    for values_M in (x_M, y_M):
        ranks_M = scipy.stats.rankdata(values_M)
        residuals.append(ranks_M - design_MD @ np.linalg.lstsq(design_MD, ranks_M, rcond=None)[0])
    assert partial_spearman(x_M, y_M, z_M) == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert partial_spearman(x_M, y_M, x_M) == 0


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
def test_the_interval_covers_the_correlation_over_all_seeds(partial: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """n = 60 studies of 5 seeds; nominal 95%, at least 52 of 60 with a probability above 99%."""
    monkeypatch.setattr(association, "RESAMPLES", 150)
    generator = np.random.default_rng(1)
    many = simulate(1, 4000, generator)[0]
    given_M = generator.normal(size=many.shape[:2])
    truth = spearman(many[..., 0].ravel(), many[..., 1].ravel())
    if partial:
        truth = partial_spearman(many[..., 0].ravel(), many[..., 1].ravel(), given_M.ravel())
    seeds, hits, studies = np.repeat(np.arange(SEEDS), ARMS).tolist(), 0, simulate(60, SEEDS, generator)
    for study in studies:
        third = generator.normal(size=SEEDS * ARMS).tolist() if partial else None
        interval = association.association(study[..., 0].ravel(), study[..., 1].ravel(), seeds, third)
        assert interval is not None
        assert interval.ends is not None
        hits += interval.ends[0] <= truth <= interval.ends[1]
    assert hits >= 52
