"""What is done to maps before training on them, against closed forms: thresholds, permutations, float16.

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
def test_the_threshold_is_mean_plus_phi_unbiased_std_of_each_map(phi: float, seed: int) -> None:
    """NumPy's mean and std (ddof 1) over C·H·W, in float64."""
    maps = torch.rand(3, *SHAPE, generator=random(seed), dtype=torch.float64)
    raw = maps.numpy()
    cut = raw.mean((1, 2, 3), keepdims=True) + phi * raw.std((1, 2, 3), ddof=1, keepdims=True)
    np.testing.assert_array_equal(saliency.threshold(maps, phi), np.where(raw < cut, 0.0, raw))


def test_the_threshold_copies_and_leaves_each_map_to_itself() -> None:
    """A map's values do not decide another's threshold, and the raw maps stay."""
    maps = images(3)
    raw, scaled = maps.clone(), maps * torch.tensor([1.0, 100.0, 0.01]).view(3, 1, 1, 1)
    kept = saliency.threshold(scaled, 0.5) != 0
    assert torch.equal(kept, saliency.threshold(maps, 0.5) != 0)
    assert torch.equal(maps, raw)


def test_thresholds_and_permutations_read_no_data_on_the_host() -> None:
    """Tensors without data suffice: a graph can capture them."""
    maps = torch.empty(3, *SHAPE, device="meta")
    for made in (saliency.threshold(maps, 1.0), saliency.two_sided_threshold(maps, 1.0)):
        assert made.shape == maps.shape
    assert saliency.permute(maps, random(0)).shape == maps.shape


@pytest.mark.parametrize(
    ("phi", "one_sided", "two_sided"),
    [(0.0, (0, 0, 1, 3), (-3, -1, 1, 3)), (0.5, (0, 0, 0, 3), (-3, 0, 0, 3)), (1.2, (0, 0, 0, 0), (0, 0, 0, 0))],
)
def test_two_sides_keep_what_stands_out_below_as_well(
    phi: float, one_sided: tuple[float, ...], two_sided: tuple[float, ...]
) -> None:
    """Of (−3, −1, 1, 3) the mean is 0 and the unbiased std √(20/3) = 2.58; φ = 0 keeps all."""
    maps = torch.tensor([-3.0, -1.0, 1.0, 3.0]).view(1, 1, 2, 2)
    assert saliency.threshold(maps, phi).flatten().tolist() == list(one_sided)
    assert saliency.two_sided_threshold(maps, phi).flatten().tolist() == list(two_sided)


def test_a_value_at_the_very_threshold_stays() -> None:
    """Of (−2, 0 … 0, 2), nine values, the mean is 0 and the unbiased std 1; that of a constant map is 0."""
    maps = torch.tensor([-2.0, 0, 0, 0, 0, 0, 0, 0, 2]).view(1, 1, 3, 3)
    assert saliency.threshold(maps, 2.0).flatten().tolist() == [0.0] * 8 + [2.0]
    assert torch.equal(saliency.two_sided_threshold(maps, 2.0), maps)
    constant = torch.full((1, 1, 3, 3), 0.5)
    for cut in (saliency.threshold, saliency.two_sided_threshold):
        assert torch.equal(cut(constant, 1.0), constant)


@given(st.floats(0, 3), st.integers(-9, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_thresholds_ask_for_neither_scale_nor_place(phi: float, exponent: int, seed: int) -> None:
    """Of a scaled or permuted map they are the scaled, permuted ones; two sides know no sign."""
    maps, scale = torch.randn(3, *SHAPE, generator=random(seed), dtype=torch.float64), 2.0**exponent
    for cut in (saliency.threshold, saliency.two_sided_threshold):
        assert torch.equal(cut(scale * maps, phi), scale * cut(maps, phi))
        assert torch.equal(
            cut(saliency.permute(maps, random(seed)), phi), saliency.permute(cut(maps, phi), random(seed))
        )
    assert torch.equal(saliency.two_sided_threshold(-maps, phi), -saliency.two_sided_threshold(maps, phi))


def test_two_sides_are_within_phi_unbiased_std_of_each_map() -> None:
    """NumPy's mean and std (ddof 1) over C·H·W of each map, whose scales and means differ."""
    maps = torch.randn(4, *SHAPE, generator=random(2), dtype=torch.float64) * torch.logspace(-2, 2, 4).view(-1, 1, 1, 1)
    raw = (maps + torch.arange(4).view(-1, 1, 1, 1)).numpy()
    std, mean = raw.std((1, 2, 3), ddof=1, keepdims=True), raw.mean((1, 2, 3), keepdims=True)
    expected = np.where(np.abs(raw - mean) < 0.7 * std, 0.0, raw)
    np.testing.assert_array_equal(saliency.two_sided_threshold(torch.from_numpy(raw), 0.7), expected)


@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from([torch.float32, torch.float16]))
@settings(max_examples=30, deadline=None)
def test_a_permutation_keeps_each_maps_multiset_of_values(n: int, seed: int, dtype: torch.dtype) -> None:
    """Sorted values are equal map by map, and the input is left alone."""
    maps = images(n, seed).to(dtype)
    raw = maps.clone()
    permuted = saliency.permute(maps, random(seed))
    assert (permuted.shape, permuted.dtype) == (maps.shape, dtype)
    assert torch.equal(permuted.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert torch.equal(maps, raw)


def test_permutations_are_fixed_by_the_seed_and_differ_between_maps() -> None:
    """Equal maps get different orders; equal seeds equal ones, whatever the global generator did."""
    maps = torch.arange(math.prod(SHAPE)).float().view(1, *SHAPE).repeat(4, 1, 1, 1)
    one = saliency.permute(maps, random(0))
    torch.manual_seed(77)
    assert torch.equal(one, saliency.permute(maps, random(0)))
    assert not torch.equal(one, saliency.permute(maps, random(1)))
    assert len({tuple(m.flatten().tolist()) for m in one}) == 4


def test_a_permutation_crosses_channels_and_is_uniform() -> None:
    """The first value lands on each of D places equally often: χ² within five sigma of its D − 1."""
    n, d = 6400, math.prod(SHAPE)
    maps = torch.zeros(n, *SHAPE)
    maps[:, 0, 0, 0] = 1.0
    counts = saliency.permute(maps, random(0)).sum(0).flatten()
    chi2 = float(((counts - n / d) ** 2 / (n / d)).sum())
    assert abs(chi2 - (d - 1)) < 5 * math.sqrt(2 * (d - 1))


def test_permuting_in_parts_covers_every_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Working memory is bounded by parts of a few maps; the last, shorter part is permuted too."""
    monkeypatch.setattr(saliency, "VALUES_AT_ONCE", 3 * math.prod(SHAPE))
    maps = images(7)
    permuted = saliency.permute(maps, random(0))
    assert torch.equal(permuted.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert all(not torch.equal(p, m) for p, m in zip(permuted, maps, strict=True))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_maps_in_float16s_normal_range_fit_it(scale: float) -> None:
    """Then each value keeps eleven binary digits; maps of zeros lose nothing at all."""
    maps = scale * images(5)
    maps[3] = 0
    assert saliency.fits_float16(maps)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-9, 1e-6, 1e5, 1e38])
def test_one_map_that_float16_cannot_hold_is_enough(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fades, loses digits or overflows, in the last part as in the first; a value that is none never fits."""
    monkeypatch.setattr(saliency, "VALUES_AT_ONCE", 2 * math.prod(SHAPE))
    for place in (0, 4):
        maps = images(5)
        maps[place] = maps[place] * scale if scale else math.nan
        assert not saliency.fits_float16(maps)


def test_maps_fit_float16_if_their_distances_from_it_are_small() -> None:
    """NumPy's l1 and l2 distances, to one part in 1,024 of the map's own norms; so sum and norm are right as well."""
    maps = images(600)
    maps[::2] **= 8
    maps *= torch.cat([torch.logspace(-8, 6, 200), torch.logspace(-4.5, -3, 400)]).view(-1, 1, 1, 1)
    exact = maps.flatten(1).numpy().astype(np.float64)
    with np.errstate(over="ignore"):
        half = maps.flatten(1).numpy().astype(np.float16).astype(np.float64)
    close = {p: np.linalg.norm(half - exact, p, 1) <= 2**-10 * np.linalg.norm(exact, p, 1) for p in (1, 2)}
    fits = np.array([saliency.fits_float16(one[None]) for one in maps])
    np.testing.assert_array_equal(fits, close[1] & close[2])
    assert (close[1] & ~fits).any()
    assert (close[2] & ~fits).any()
    for p in (1, 2):
        np.testing.assert_allclose(np.linalg.norm(half[fits], p, 1), np.linalg.norm(exact[fits], p, 1), rtol=2**-10)
