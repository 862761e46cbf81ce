"""Saliency maps against closed forms and captum: gradients and SmoothGrad.

Shapes: B batch, C·H·W image, K classes.
"""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg.gradients import saliency
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
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


def linear(classes: int = 3) -> PiecewiseLinear:
    model = PiecewiseLinear([nn.Flatten(), nn.Linear(math.prod(SHAPE), classes)])
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


def test_the_gradient_of_the_probability_of_a_linear_network() -> None:
    """∂p_c/∂x = p_c·(w_c − Σ_k p_k·w_k)."""
    model, x, y = linear().double(), images(4).double(), torch.tensor([0, 2, 1, 2])
    p = model(x).detach().softmax(1)
    mean = (p @ model.layers[1].weight.detach()).view(-1, *SHAPE)
    expected = p[torch.arange(4), y].view(-1, 1, 1, 1) * (rows(model, y) - mean)
    ours = saliency.simple_gradient(model, x, y, output="probabilities")
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


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


@pytest.mark.parametrize("absolute", [True, False])
def test_smoothgrad_is_captums_noise_tunnel_of_the_same_noise(absolute: bool) -> None:
    """With one copy at a time, both draw the same numbers."""
    attr = pytest.importorskip("captum.attr")
    model, x, y = relu_net(), images(4), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(5)
    theirs = attr.NoiseTunnel(attr.Saliency(model)).attribute(
        x.clone().requires_grad_(), nt_samples=20, nt_samples_batch_size=1, stdevs=0.3, target=y, abs=absolute
    )
    ours = smoothgrad(model, x, y, sigma=0.3, samples=20, seed=5, sign="abs" if absolute else "signed")
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6)


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
