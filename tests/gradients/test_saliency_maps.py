"""Thresholds, permutations and float16 of maps, against closed forms.

Shapes: C·H·W image.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tune_interpreg.gradients import saliency

SHAPE = (2, 4, 4)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, *SHAPE, generator=random(seed))


@given(st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_thresholds_are_phi_unbiased_std_from_the_mean_of_each_map(phi: float, seed: int) -> None:
    """NumPy's mean and std (ddof 1) over C·H·W, of maps with different scales and means."""
    maps = torch.randn(4, *SHAPE, generator=random(seed), dtype=torch.float64)
    maps = maps * torch.logspace(-2, 2, 4).view(-1, 1, 1, 1) + torch.arange(4).view(-1, 1, 1, 1)
    before, raw = maps.clone(), maps.numpy()
    std, mean = raw.std((1, 2, 3), ddof=1, keepdims=True), raw.mean((1, 2, 3), keepdims=True)
    np.testing.assert_array_equal(saliency.threshold(maps, phi), np.where(raw < mean + phi * std, 0.0, raw))
    two_sided = np.where(np.abs(raw - mean) < abs(phi) * std, 0.0, raw)
    np.testing.assert_array_equal(saliency.two_sided_threshold(maps, abs(phi)), two_sided)
    assert torch.equal(maps, before)


def test_thresholds_and_permutations_read_no_data_on_the_host() -> None:
    """They run on tensors without data, so a graph can capture them."""
    maps = torch.empty(3, *SHAPE, device="meta")
    for result in (saliency.threshold(maps, 1.0), saliency.two_sided_threshold(maps, 1.0)):
        assert result.shape == maps.shape
    assert saliency.permute(maps, random(0)).shape == maps.shape


@pytest.mark.parametrize(
    ("phi", "one_sided", "two_sided"),
    [(0.0, (0, 0, 1, 3), (-3, -1, 1, 3)), (0.5, (0, 0, 0, 3), (-3, 0, 0, 3)), (1.2, (0, 0, 0, 0), (0, 0, 0, 0))],
)
def test_two_sided_thresholds_keep_both_tails(
    phi: float, one_sided: tuple[float, ...], two_sided: tuple[float, ...]
) -> None:
    """(−3, −1, 1, 3) has mean 0 and unbiased std √(20/3) = 2.58."""
    maps = torch.tensor([-3.0, -1.0, 1.0, 3.0]).view(1, 1, 2, 2)
    assert saliency.threshold(maps, phi).flatten().tolist() == list(one_sided)
    assert saliency.two_sided_threshold(maps, phi).flatten().tolist() == list(two_sided)


def test_a_value_at_the_threshold_is_kept() -> None:
    """(−2, 0 … 0, 2), nine values, has mean 0 and unbiased std 1. A constant map has std 0."""
    maps = torch.tensor([-2.0, 0, 0, 0, 0, 0, 0, 0, 2]).view(1, 1, 3, 3)
    assert saliency.threshold(maps, 2.0).flatten().tolist() == [0.0] * 8 + [2.0]
    assert torch.equal(saliency.two_sided_threshold(maps, 2.0), maps)
    constant = torch.full((1, 1, 3, 3), 0.5)
    for cut in (saliency.threshold, saliency.two_sided_threshold):
        assert torch.equal(cut(constant, 1.0), constant)


@given(st.floats(0, 3), st.integers(-9, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_thresholds_commute_with_scaling_and_permutation(phi: float, exponent: int, seed: int) -> None:
    """The two-sided one also commutes with a change of sign."""
    maps, scale = torch.randn(3, *SHAPE, generator=random(seed), dtype=torch.float64), 2.0**exponent
    for cut in (saliency.threshold, saliency.two_sided_threshold):
        assert torch.equal(cut(scale * maps, phi), scale * cut(maps, phi))
        assert torch.equal(
            cut(saliency.permute(maps, random(seed)), phi), saliency.permute(cut(maps, phi), random(seed))
        )
    assert torch.equal(saliency.two_sided_threshold(-maps, phi), -saliency.two_sided_threshold(maps, phi))


@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from([torch.float32, torch.float16]))
@settings(max_examples=30, deadline=None)
def test_a_permutation_keeps_each_maps_values(n: int, seed: int, dtype: torch.dtype) -> None:
    """The input is not changed."""
    maps = images(n, seed).to(dtype)
    raw = maps.clone()
    permuted = saliency.permute(maps, random(seed))
    assert (permuted.shape, permuted.dtype) == (maps.shape, dtype)
    assert torch.equal(permuted.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert torch.equal(maps, raw)


def test_permutations_are_fixed_by_the_seed_and_differ_between_maps() -> None:
    """Equal maps get different orders. The global generator has no effect."""
    maps = torch.arange(math.prod(SHAPE)).float().view(1, *SHAPE).repeat(4, 1, 1, 1)
    permuted = saliency.permute(maps, random(0))
    torch.manual_seed(77)
    assert torch.equal(permuted, saliency.permute(maps, random(0)))
    assert not torch.equal(permuted, saliency.permute(maps, random(1)))
    assert len({tuple(m.flatten().tolist()) for m in permuted}) == 4


def test_a_permutation_crosses_channels_and_is_uniform() -> None:
    """The first value moves to each of D places equally often: χ² within five sigma of D − 1."""
    n, d = 6400, math.prod(SHAPE)
    maps = torch.zeros(n, *SHAPE)
    maps[:, 0, 0, 0] = 1.0
    counts = saliency.permute(maps, random(0)).sum(0).flatten()
    chi2 = float(((counts - n / d) ** 2 / (n / d)).sum())
    assert abs(chi2 - (d - 1)) < 5 * math.sqrt(2 * (d - 1))


def test_permuting_in_parts_covers_every_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last, shorter part."""
    monkeypatch.setattr(saliency, "VALUES_AT_ONCE", 3 * math.prod(SHAPE))
    maps = images(7)
    permuted = saliency.permute(maps, random(0))
    assert torch.equal(permuted.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert all(not torch.equal(p, m) for p, m in zip(permuted, maps, strict=True))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_maps_in_float16s_normal_range_fit_it(scale: float) -> None:
    """So do maps of zeros."""
    maps = scale * images(5)
    maps[3] = 0
    assert saliency.fits_float16(maps)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-9, 1e-6, 1e5, 1e38])
def test_maps_do_not_fit_float16_if_one_of_them_does_not(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It underflows, loses digits, overflows or is not finite, in the first or the last part."""
    monkeypatch.setattr(saliency, "VALUES_AT_ONCE", 2 * math.prod(SHAPE))
    for place in (0, 4):
        maps = images(5)
        maps[place] = maps[place] * scale if scale else math.nan
        assert not saliency.fits_float16(maps)


def test_maps_fit_float16_if_their_distance_from_it_is_small() -> None:
    """NumPy's l1 and l2 distances, to one part in 1,024 of the map's norms. So sum and norm are as exact."""
    maps = images(600)
    maps[::2] **= 8
    maps *= torch.cat([torch.logspace(-8, 6, 200), torch.logspace(-4.5, -3, 400)]).view(-1, 1, 1, 1)
    exact = maps.flatten(1).numpy().astype(np.float64)
    with np.errstate(over="ignore"):
        half = maps.flatten(1).numpy().astype(np.float16).astype(np.float64)
    close = {p: np.linalg.norm(half - exact, p, 1) <= 2**-10 * np.linalg.norm(exact, p, 1) for p in (1, 2)}
    fits = np.array([saliency.fits_float16(map_CHW[None]) for map_CHW in maps])
    np.testing.assert_array_equal(fits, close[1] & close[2])
    assert (close[1] & ~fits).any()
    assert (close[2] & ~fits).any()
    for p in (1, 2):
        np.testing.assert_allclose(np.linalg.norm(half[fits], p, 1), np.linalg.norm(exact[fits], p, 1), rtol=2**-10)
