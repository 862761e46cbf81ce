"""Saliency maps against closed forms and captum: gradients, SmoothGrad, thresholds, permutations, float16.

Shapes: B batch, C·H·W image, K classes.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg.gradients import saliency
from tune_interpreg.networks.chain import Chain
from tune_interpreg.study.config import MapSettings

SHAPE = (2, 4, 4)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, *SHAPE, generator=random(seed))


def normal_(model: nn.Module, scale: float, seed: int = 0) -> None:
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.normal_(0.0, scale, generator=random(seed + number))


def linear(classes: int = 3) -> Chain:
    model = Chain([nn.Flatten(), nn.Linear(math.prod(SHAPE), classes)])
    normal_(model, 1.0)
    return model


def relu_net() -> nn.Sequential:
    """Return a network with a gradient that depends on x."""
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    normal_(net, 0.5)
    return net.eval()


def smoothgrad(model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, chunk: int = 4, **settings: Any) -> Tensor:
    return saliency.smoothgrad(model, x, y, settings=MapSettings(**settings), generator=random(seed), chunk=chunk)


def noisy(x: Tensor, sigma: float, samples: int, seed: int) -> list[Tensor]:
    generator = random(seed)
    return [x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(samples)]


def rows(model: nn.Module, y: Tensor) -> Tensor:
    """Return w_c of each label, as images."""
    return next(p for p in model.parameters() if p.dim() == 2).detach()[y].view(-1, *SHAPE)


def test_the_simple_gradient_is_autograds() -> None:
    """J_c(x) = ∂f_c/∂x, without a graph."""
    model, y = relu_net(), torch.tensor([0, 2, 1])
    x = images(3).requires_grad_()
    (expected,) = torch.autograd.grad(model(x).gather(1, y.unsqueeze(1)).sum(), x)
    ours = saliency.simple_gradient(model, x.detach(), y)
    torch.testing.assert_close(ours, expected)
    assert not ours.requires_grad


def test_the_gradient_of_the_probability_of_a_confident_network_is_exact() -> None:
    """1 − p is below float32's resolution, but the gradient agrees with float64."""
    model, x = linear(), images(20)
    with torch.no_grad():
        model.layers[1].weight.mul_(10)
    y = model(x).argmax(1)
    ours = saliency.simple_gradient(model, x, y, output="probabilities")
    exact = saliency.simple_gradient(model.double(), x.double(), y, output="probabilities")
    assert (1 - model(x.double()).softmax(1).amax(1)).min() < 1e-9
    assert ((ours - exact).flatten(1).norm(dim=1) < 1e-4 * exact.flatten(1).norm(dim=1)).all()


@given(st.floats(0, 2), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans())
@settings(max_examples=20, deadline=None)
def test_smoothgrad_of_a_linear_logit_is_its_row(
    sigma: float, samples: int, chunk: int, clamp: bool, include_clean: bool
) -> None:
    """|w_c|, or w_c if signed, for any σ, N, images and chunks."""
    model, x, y = linear(), images(2), torch.tensor([1, 0])
    noise = {"sigma": sigma, "samples": samples, "clamp": clamp, "include_clean": include_clean}
    torch.testing.assert_close(smoothgrad(model, x, y, chunk=chunk, **noise), rows(model, y).abs())
    torch.testing.assert_close(smoothgrad(model, x, y, chunk=chunk, sign="signed", **noise), rows(model, y))


def test_smoothgrad_is_the_mean_of_absolute_gradients_of_noisy_images() -> None:
    """Eq. 4 as a loop over the same draws, for any chunk. The chunk limits the images per forward."""
    model, x, y = relu_net(), images(3), torch.tensor([0, 1, 2])
    copies = noisy(x, 0.3, 5, seed=7)
    expected = torch.stack([saliency.simple_gradient(model, x_i, y).abs() for x_i in copies]).mean(0)
    for chunk, sizes in {2: [6, 6, 3], 5: [15], 50: [15]}.items():
        counts: list[int] = []
        hook = model[0].register_forward_pre_hook(lambda _, args, counts=counts: counts.append(len(args[0])))
        ours = smoothgrad(model, x, y, sigma=0.3, samples=5, seed=7, chunk=chunk)
        hook.remove()
        torch.testing.assert_close(ours, expected)
        assert counts == sizes


OPTIONS = [{"clamp": True}, {"include_clean": True}, {"sign": "signed"}, {"output": "probabilities"}]


@pytest.mark.parametrize("options", [{}, *OPTIONS, OPTIONS[0] | OPTIONS[1] | OPTIONS[2] | OPTIONS[3]])
def test_each_variant_of_smoothgrad_equals_the_mean_of_captums_saliency(options: dict[str, Any]) -> None:
    """Of the same noisy images, in float64."""
    attr = pytest.importorskip("captum.attr")
    model, x, y = relu_net().double(), images(3).double(), torch.tensor([0, 1, 2])
    copies = noisy(x, 0.5, 5, seed=3)
    copies = [x_i.clamp(0, 1) for x_i in copies] if "clamp" in options else copies
    copies = [*copies, x] if "include_clean" in options else copies
    theirs = attr.Saliency(nn.Sequential(model, nn.Softmax(1)) if "output" in options else model)
    maps = [theirs.attribute(x_i.requires_grad_(), target=y, abs="sign" not in options) for x_i in copies]
    ours = smoothgrad(model, x.detach(), y, sigma=0.5, samples=5, seed=3, **options)
    torch.testing.assert_close(ours, torch.stack(maps).mean(0), rtol=1e-12, atol=1e-14)


def test_smoothgrad_has_no_side_effects() -> None:
    """On the global generator, which has no effect either, on the model's mode, and on its gradients."""
    model, x, y = relu_net().train(), images(2), torch.tensor([0, 1])
    first = smoothgrad(model, x, y, sigma=0.2, samples=3, chunk=2)
    torch.manual_seed(999)
    state = torch.get_rng_state()
    second = smoothgrad(model, x, y, sigma=0.2, samples=3, chunk=2)
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not first.requires_grad


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


def test_a_value_at_the_threshold_is_kept() -> None:
    """(−2, 0 … 0, 2), nine values, has mean 0 and unbiased std 1. A constant map has std 0."""
    maps = torch.tensor([-2.0, 0, 0, 0, 0, 0, 0, 0, 2]).view(1, 1, 3, 3)
    assert saliency.threshold(maps, 2.0).flatten().tolist() == [0.0] * 8 + [2.0]
    assert torch.equal(saliency.two_sided_threshold(maps, 2.0), maps)
    constant = torch.full((1, 1, 3, 3), 0.5)
    for cut in (saliency.threshold, saliency.two_sided_threshold):
        assert torch.equal(cut(constant, 1.0), constant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_permutation_keeps_each_maps_values(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the last, shorter part. The input is not changed."""
    monkeypatch.setattr(saliency, "VALUES_AT_ONCE", 3 * math.prod(SHAPE))
    maps = images(7).to(dtype)
    raw = maps.clone()
    permuted = saliency.permute(maps, random(0))
    assert (permuted.shape, permuted.dtype) == (maps.shape, dtype)
    assert torch.equal(permuted.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert all(not torch.equal(p, m) for p, m in zip(permuted, maps, strict=True))
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


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-9, 1e-6, 1e5, 1e38])
def test_maps_do_not_fit_float16_if_one_of_them_does_not(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It underflows, loses digits, overflows or is not finite, in the first or the last part. Zeros fit."""
    monkeypatch.setattr(saliency, "VALUES_AT_ONCE", 2 * math.prod(SHAPE))
    for place in (0, 4):
        maps = images(5)
        maps[3] = 0
        assert saliency.fits_float16(maps)
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
