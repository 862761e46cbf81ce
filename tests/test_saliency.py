"""Saliency maps against closed forms and captum: gradients, SmoothGrad, thresholds, permutations.

Shapes: B batch, C·H·W image, K classes.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg import saliency
from tune_interpreg.models import PiecewiseLinear

SHAPE = (2, 4, 4)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, *SHAPE, generator=random(seed))


def normal_(model: nn.Module, scale: float, seed: int = 0) -> None:
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.normal_(0.0, scale, generator=random(seed + number))


def linear(classes: int = 3) -> PiecewiseLinear:
    model = PiecewiseLinear([nn.Flatten(), nn.Linear(math.prod(SHAPE), classes)])
    normal_(model, 1.0)
    return model


def relu_net() -> nn.Sequential:
    """A net whose gradient depends on x, without an adjoint of its own."""
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    normal_(net, 0.5)
    return net.eval()


def rows(model: nn.Module, y: Tensor) -> Tensor:
    """w_c of each label, as images."""
    return next(p for p in model.parameters() if p.dim() == 2).detach()[y].view(-1, *SHAPE)


def test_the_simple_gradient_of_a_linear_logit_is_its_row() -> None:
    """J_c of Wx is w_c."""
    model, y = linear(), torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(saliency.simple_gradient(model, images(4), y), rows(model, y))


def test_the_simple_gradient_is_autograds() -> None:
    """J_c(x) = ∂f_c/∂x, and it carries no graph."""
    model, y = relu_net(), torch.tensor([0, 2, 1])
    x = images(3).requires_grad_()
    (expected,) = torch.autograd.grad(model(x).gather(1, y.unsqueeze(1)).sum(), x)
    ours = saliency.simple_gradient(model, x.detach(), y)
    torch.testing.assert_close(ours, expected)
    assert not ours.requires_grad


@given(st.floats(0, 2), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_smoothgrad_of_a_linear_logit_is_its_row_for_any_noise(sigma: float, samples: int, chunk: int) -> None:
    """The mean of N equal |w_c| is |w_c|, whatever σ, N and the chunks."""
    model, y = linear(), torch.tensor([1, 0])
    maps = saliency.smoothgrad(model, images(2), y, sigma=sigma, samples=samples, generator=random(1), chunk=chunk)
    torch.testing.assert_close(maps, rows(model, y).abs())


def test_smoothgrad_is_the_mean_of_absolute_gradients_of_noisy_images() -> None:
    """Eq. 4, written as a loop over the same draws."""
    model, x, y = relu_net(), images(3), torch.tensor([0, 1, 2])
    generator = random(7)
    noisy = [x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(5)]
    expected = torch.stack([saliency.simple_gradient(model, x_i, y).abs() for x_i in noisy]).mean(0)
    ours = saliency.smoothgrad(model, x, y, sigma=0.3, samples=5, generator=random(7), chunk=2)
    torch.testing.assert_close(ours, expected)


def test_smoothgrad_does_not_depend_on_the_chunk() -> None:
    """Memory is the only thing that chunk decides."""
    model, x, y = relu_net(), images(3), torch.tensor([0, 1, 2])
    maps = [
        saliency.smoothgrad(model, x, y, sigma=0.2, samples=11, generator=random(0), chunk=chunk)
        for chunk in (1, 4, 11, 50)
    ]
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0])


def test_smoothgrad_forwards_at_most_chunk_copies() -> None:
    """No forward sees more than chunk·B images, and all together see N·B."""
    model, seen = relu_net(), []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    saliency.smoothgrad(
        model, images(3), torch.zeros(3, dtype=torch.long), sigma=0.2, samples=10, generator=random(0), chunk=4
    )
    assert seen == [12, 12, 6]


def test_smoothgrad_agrees_with_captum_within_sampling_error() -> None:
    """Two independent means of N gradients differ by at most six standard errors in every pixel."""
    attr = pytest.importorskip("captum.attr")
    model, x, y, n = relu_net(), images(4), torch.tensor([0, 1, 2, 0]), 200
    torch.manual_seed(0)
    leaf = x.clone().requires_grad_()
    theirs = attr.NoiseTunnel(attr.Saliency(model)).attribute(
        leaf, nt_type="smoothgrad", nt_samples=n, stdevs=0.3, target=y, abs=True
    )
    ours = saliency.smoothgrad(model, x, y, sigma=0.3, samples=n, generator=random(0), chunk=100)
    generator = random(1)
    draws = [x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(n)]
    spread = torch.stack([saliency.simple_gradient(model, x_i, y).abs() for x_i in draws]).std(0)
    assert ((ours - theirs.detach()).abs() <= 6 * spread * math.sqrt(2 / n) + 1e-5).all()
    assert not torch.allclose(ours, saliency.simple_gradient(model, x, y).abs(), rtol=0.05)


def test_smoothgrad_draws_from_its_generator_alone_and_leaves_the_model_as_it_was() -> None:
    """A disturbed global generator changes nothing; mode and gradients stay."""
    model, x, y = relu_net().train(), images(2), torch.tensor([0, 1])
    one = saliency.smoothgrad(model, x, y, sigma=0.2, samples=3, generator=random(0), chunk=2)
    torch.manual_seed(999)
    state = torch.get_rng_state()
    two = saliency.smoothgrad(model, x, y, sigma=0.2, samples=3, generator=random(0), chunk=2)
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not one.requires_grad


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


def test_the_threshold_reads_no_data_on_the_host() -> None:
    """Tensors without data suffice: a graph can capture it."""
    assert saliency.threshold(torch.empty(3, *SHAPE, device="meta"), 1.0).shape == (3, *SHAPE)


@given(st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_permutation_keeps_each_maps_multiset_of_values(n: int, seed: int) -> None:
    """Sorted values are equal map by map, and the input is left alone."""
    maps = images(n, seed)
    raw = maps.clone()
    permuted = saliency.permute(maps, random(seed))
    assert permuted.shape == maps.shape
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
    monkeypatch.setattr(saliency, "VALUES_PERMUTED_AT_ONCE", 3 * math.prod(SHAPE))
    maps = images(7)
    permuted = saliency.permute(maps, random(0))
    assert torch.equal(permuted.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert all(not torch.equal(p, m) for p, m in zip(permuted, maps, strict=True))
