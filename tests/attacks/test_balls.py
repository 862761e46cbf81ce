"""Projections, directions and starts against NumPy, and the distributions of starts.

Shapes: B batch, C·H·W image, D = C·H·W.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from tune_interpreg.attacks import balls
from tune_interpreg.study.config import Attack

SHAPE = (1, 4, 4)
D = math.prod(SHAPE)
NORMS = ("l2", "linf")
ORDER = {"l2": 2.0, "linf": math.inf}


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(d_BCHW: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(d_BCHW.flatten(1), ORDER[norm], dim=1)


def ball(norm: str, eps: float) -> Attack:
    return Attack(norm=norm, eps=eps, start="ball")


@given(st.floats(1e-3, 10), st.floats(0, 10), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_projections_are_numpys(eps: float, scale: float, seed: int) -> None:
    """l2: Π(d) = d·min(1, ε/‖d‖₂). l∞: clip(d, −ε, ε)."""
    d = scale * torch.randn(3, *SHAPE, generator=random(seed))
    flat = d.flatten(1).numpy().astype(np.float64)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    expected = flat * np.minimum(1.0, eps / np.maximum(length, 1e-300))
    np.testing.assert_allclose(balls.project_l2(d, eps).flatten(1), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(balls.project_linf(d, eps).flatten(1), np.clip(flat, -eps, eps), rtol=1e-6)


def test_zero_gradients_and_unbounded_balls_give_finite_steps() -> None:
    zero = torch.zeros(2, *SHAPE)
    assert torch.equal(balls.l2_direction(zero, 1e-12), zero)
    assert torch.equal(balls.project_l2(zero, math.inf), zero)
    assert torch.equal(balls.project_l2(zero + 9, math.inf), zero + 9)


def test_directions_have_length_one_and_the_floor_shortens_l2_only() -> None:
    """‖g/max(‖g‖₂, floor)‖₂ = min(1, ‖g‖₂/floor); max |sign(g)| = 1 unless g = 0."""
    g = torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1, 1) * torch.randn(3, *SHAPE, generator=random(0))
    expected = (distance(g, "l2") / 0.1).clamp(max=1.0)
    torch.testing.assert_close(distance(balls.l2_direction(g, 0.1), "l2"), expected)
    assert torch.equal(balls.sign_direction(g, 0.1).abs(), torch.ones_like(g))
    assert torch.equal(balls.sign_direction(torch.zeros_like(g), 0.1), torch.zeros_like(g))


@pytest.mark.parametrize("norm", NORMS)
def test_the_sphere_start_lies_on_the_sphere(norm: str) -> None:
    """Uniform pixels are farther than ε from x, so their projection has distance ε. No ball start has it."""
    x = torch.rand(8, *SHAPE, generator=random(0))
    start = balls.draw_start(x, Attack(norm=norm, eps=0.3, start="sphere"), random(1))
    torch.testing.assert_close(distance(start - x, norm), torch.full((8,), 0.3), rtol=1e-5, atol=0.0)
    assert (distance(balls.draw_start(x, ball(norm, 0.3), random(1)) - x, norm) < 0.3 * (1 - 1e-5)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", ["sphere", "ball"])
@given(st.floats(0.01, 3), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_starts_lie_in_the_ball_and_in_the_box(norm: str, start: str, eps: float, seed: int) -> None:
    """Also for images with pixels at 0 and 1."""
    x = (2 * torch.rand(16, *SHAPE, generator=random(seed)) - 0.5).clamp(0, 1)
    start_BCHW = balls.draw_start(x, Attack(norm=norm, eps=eps, start=start), random(seed + 1))
    assert distance(start_BCHW - x, norm).max() <= eps * (1 + 1e-5) + 1e-6
    assert start_BCHW.min() >= 0
    assert start_BCHW.max() <= 1


def offsets(norm: str, eps: float, images: int = 4000) -> Tensor:
    """Return d_BD/ε of ball starts around grey images, which stay within the box."""
    x = torch.full((images, *SHAPE), 0.5)
    return (balls.draw_start(x, ball(norm, eps), random(2)) - x).flatten(1) / eps


@pytest.mark.parametrize("norm", NORMS)
def test_volumes_of_ball_starts_are_uniform(norm: str) -> None:
    """A ball of radius r has (r/ε)^D of the volume. This fraction is uniform in [0, 1]: mean 1/2 ± 4·√(1/12B)."""
    volume = distance(offsets(norm, 0.4), norm).double() ** D
    assert float(volume.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(volume)))
    assert stats.kstest(volume.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize(("norm", "scale"), [("l2", 1 / (D + 2)), ("linf", 1 / 3)])
def test_ball_starts_favour_no_direction(norm: str, scale: float) -> None:
    """E d = 0 and E ddᵀ = ε²/(D + 2)·I under l2, ε²/3·I under linf, as for a uniform ball."""
    d_BD = offsets(norm, 0.4)
    assert d_BD.mean(0).abs().max() < 5 * math.sqrt(scale / len(d_BD))
    assert (torch.cov(d_BD.T) - scale * torch.eye(D)).abs().max() < 5 * scale * math.sqrt(2 / len(d_BD))


@pytest.mark.parametrize(("norm", "default"), [("l2", "sphere"), ("linf", "ball")])
def test_the_default_start_depends_on_the_norm(norm: str, default: str) -> None:
    x = torch.rand(8, *SHAPE, generator=random(0))
    starts = [balls.draw_start(x, Attack(norm=norm, eps=0.3, start=start), random(1)) for start in (None, default)]
    assert torch.equal(starts[0], starts[1])
