"""The two models of a match: a curve that may jump, and a smooth one."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import nbinom

from tune_interpreg.search.matching.posterior import RootPosterior, choose_share
from tune_interpreg.search.matching.smooth import SmoothModel
from tune_interpreg.search.matching.steps import BEND, COLLAPSED, FREAK, NOISES, SHAPES, Array, StepModel

NOISE = 0.1


def smooth(u_N: np.ndarray, r_N: np.ndarray, **changes: object) -> SmoothModel:
    certain = {"stray_N": np.zeros(u_N.size), "stray_density_N": np.zeros(u_N.size)}
    return SmoothModel(u_N, r_N, NOISE, **{"bounds": (0.0, 1.0), "target": None, **certain, **changes})


# ------------------------------------------------------------------- step model
def test_rises_are_negative_binomial_and_add_up() -> None:
    model = StepModel(np.array([0.3, 0.7]), np.array([-1.0, 1.0]), NOISE)
    levels = model._y_L.size
    rise = max(2 * math.asinh(1.0 / (BEND * NOISE)), 1.0) * BEND * 3
    for width in (0.2, 0.5):
        (rises_SL,) = model._rises(np.array([width]))
        for shape, rises_L in zip(SHAPES, rises_SL, strict=True):
            exact_L = nbinom.pmf(np.arange(levels), shape * width, shape / (shape + rise))
            # The Fourier transform folds the tail beyond its length back.
            folded = nbinom.sf(2 * levels - 1, shape * width, shape / (shape + rise))
            assert rises_L == pytest.approx(exact_L, abs=folded + 1e-12)


def test_the_chain_agrees_with_the_sum_over_all_paths() -> None:
    """Two observations: the leave-one-out density and the root's distribution by enumeration of the levels."""
    u_N, r_N = np.array([0.3, 0.6]), np.array([-0.2, 0.5])
    model = StepModel(u_N, r_N, NOISE)
    y_L, levels = model._y_L, model._y_L.size
    rises_DSL = model._rises(np.array([0.3, 0.3, 0.4]))

    def move(from_level: int, shape: int, gap: int) -> np.ndarray:
        moved = np.zeros(levels)
        moved[from_level:] = rises_DSL[gap, shape, : levels - from_level]
        moved[-1] += 1 - moved.sum()
        return moved

    def likelihood(i: int, noise: float) -> np.ndarray:
        y = math.asinh(r_N[i] / (BEND * NOISE))
        t = 0.375 * (1 + ((y - y_L) * BEND / noise) ** 2 / 4) ** -2.5 * BEND / noise
        return (1 - COLLAPSED - FREAK) * t + (FREAK + COLLAPSED * (y > y_L)) / (levels * (y_L[1] - y_L[0]))

    total, above_first, others = 0.0, 0.0, np.zeros(2)
    for shape, noise in itertools.product(range(len(SHAPES)), NOISES):
        start_L = sum(move(level, shape, 0) for level in range(levels)) / levels
        joint_LL = start_L[:, None] * np.array([move(level, shape, 1) for level in range(levels)])
        first_L, second_L = likelihood(0, noise), likelihood(1, noise)
        weighted_LL = joint_LL * first_L[:, None] * second_L / noise
        total += weighted_LL.sum()
        above_first += weighted_LL[y_L > 0].sum()
        others += [(joint_LL * second_L).sum() / noise, (joint_LL * first_L[:, None]).sum() / noise]
    slope_N = 1 / np.hypot(BEND * NOISE, r_N)
    assert model.density_N == pytest.approx(slope_N * total / others, rel=1e-6)
    u_G, _, jump_G = model.distribution()
    assert np.interp(0.3, u_G, jump_G) == pytest.approx(above_first / total, rel=1e-6)


def test_without_ramps_the_root_is_uniform_in_its_gap() -> None:
    model = StepModel(np.array([0.2, 0.4, 0.6, 0.8]), np.array([-3.0, -3.0, 3.0, 3.0]), 0.01)
    u_G, with_G, without_G = model.distribution()
    part = np.interp([0.45, 0.5, 0.55], u_G, without_G)
    low, high = np.interp([0.4, 0.6], u_G, without_G)
    assert high - low > 0.9
    assert (part - low) / (high - low) == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
    assert np.interp(0.5, u_G, with_G) == pytest.approx(0.5, abs=0.02)


def test_a_ramp_crosses_zero_near_its_chord() -> None:
    model = StepModel(np.array([0.4, 0.6]), np.array([-0.2, 1.8]), 0.02)
    u_G, with_G, _ = model.distribution()
    assert 0.42 < np.interp(0.5, with_G, u_G) < 0.47


def test_levels_at_a_position_follow_the_observation_there() -> None:
    model = StepModel(np.array([0.3, 0.5, 0.7]), np.array([-0.4, 0.05, 0.6]), NOISE)
    below = model.below(0.5, np.array([-10.0, -0.5, 0.05, 0.6, 10.0]))
    assert (np.diff(below) >= 0).all()
    assert below == pytest.approx([0, 0.02, 0.5, 0.98, 1], abs=0.1)


# ----------------------------------------------------------------- smooth model
def test_the_leave_one_out_density_is_that_of_the_model_without_the_observation() -> None:
    """Closed form for one setting: the model of the others predicts the observation."""
    u_N, r_N = np.array([0.1, 0.35, 0.6, 0.9]), np.array([-0.8, -0.2, 0.3, 0.9])
    model = smooth(u_N, r_N)
    spread = np.array([model.density_N[i] for i in range(4)])
    assert (spread > 0).all()
    far = smooth(u_N, np.where(u_N == 0.6, 5.0, r_N))
    assert far.density_N[2] < 0.1 * model.density_N[2], "a residual off the curve is unlikely"


def test_a_straight_line_is_seen_where_it_crosses_zero() -> None:
    u_N = np.linspace(0, 1, 8)
    model = smooth(u_N, 2 * (u_N - 0.37))
    u_G = np.linspace(0, 1, 401)
    above_G = model.above(u_G)
    assert (np.diff(above_G) >= 0).all()
    assert np.interp(0.5, above_G, u_G) == pytest.approx(0.37, abs=0.01)
    assert model.below(0.6, np.array([0.46])) == pytest.approx(0.5, abs=0.1)


def test_a_collapsed_observation_hardly_moves_the_smooth_curve() -> None:
    u_N = np.linspace(0, 1, 8)
    r_N = np.where(np.arange(8) == 1, 3.0, 2 * (u_N - 0.6))
    stray_N = (np.arange(8) == 1) * (1 - 1e-6)
    u_G = np.linspace(0, 1, 401)
    trusted = smooth(u_N, r_N, stray_N=stray_N, stray_density_N=np.full(8, 0.1))
    assert np.interp(0.5, trusted.above(u_G), u_G) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(("power", "bend"), [(3.0, lambda u: u**3), (-3.0, lambda u: 1 - (1 - u) ** 3)])
def test_a_power_bends_the_range(power: float, bend: Callable[[Array], Array]) -> None:
    u_N, r_N, u_G = np.linspace(0.1, 0.9, 7), np.array([-0.9, -0.8, -0.4, 0.1, 0.3, 0.9, 1.0]), np.linspace(0, 1, 21)
    bent, straight = smooth(u_N, r_N, power=power), smooth(bend(u_N), r_N)
    assert bent.above(u_G) == pytest.approx(straight.above(bend(u_G)), rel=1e-9)
    assert bent.density_N == pytest.approx(straight.density_N, rel=1e-9)


# --------------------------------------------------------------------- mixture
#: Twelve noisy trials of logistic curves: root, target, positions, residuals. Values are in units of the noise floor.
FLAT_ROOTS = {
    "lower": (
        0.098,
        1.1,
        [0.117, 0.122, 0.124, 0.127, 0.129, 0.13, 0.134, 0.139, 0.14, 0.179, 0.29, 0.502],
        [-1.2, -0.9, -0.8, 2.6, 0.3, 0.3, -0.4, -0.1, 1.8, 2.8, 6.7, 19.0],
    ),
    "upper": (
        0.884,
        24.6,
        [0.496, 0.717, 0.772, 0.813, 0.824, 0.825, 0.831, 0.833, 0.836, 0.837, 0.837, 0.842],
        [-20.1, -3.7, -2.2, -0.4, -1.0, -1.1, -0.2, -0.9, -0.2, 0.3, 1.3, 2.1],
    ),
}


@pytest.mark.parametrize("asymptote", FLAT_ROOTS)
def test_the_interval_holds_a_root_where_the_curve_is_flat(asymptote: str) -> None:
    """The curve is much steeper elsewhere. An interval that takes the slope from there would miss the root."""
    root, target, u_N, r_N = FLAT_ROOTS[asymptote]
    low, high = RootPosterior(np.array(u_N), np.array(r_N), noise=1.0, target=target).interval()
    assert low < root < high
    assert high - low < 0.1


def test_the_bracket_wins_over_the_smooth_curve() -> None:
    """A smooth curve through these residuals crosses near 0.5. The signs leave only 0.68 to 0.72."""
    u_N = np.array([0.1, 0.3, 0.5, 0.6, 0.66, 0.68, 0.72, 0.74, 0.8, 0.9])
    r_N = np.where(u_N < 0.7, -0.5, 4.0)
    posterior = RootPosterior(u_N, r_N, noise=0.02)
    low, high = posterior.interval()
    assert 0.67 < low < posterior.median() < high < 0.73


def test_places_are_equal_parts_first_the_middle_one() -> None:
    running = np.array([])
    places = []
    for _ in range(4):
        places.append(choose_share(running, 4, 0.0))
        running = np.array(places)
    assert places[0] in (pytest.approx(0.4), pytest.approx(0.6))
    assert sorted(places) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert choose_share(np.array([]), 1, 0.0) == 0.5
    assert choose_share(running, 4, 0.0) == pytest.approx(0.1, abs=0.81)
    assert np.abs(np.array(places) - choose_share(running, 4, 0.0)).min() == pytest.approx(0.1)
