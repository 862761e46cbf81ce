"""Each norm against its closed form, and no NaN where a norm has a corner."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tune_interpreg import penalties, seeding
from tune_interpreg.models import PiecewiseLinear

NORMS = list(penalties.PENALTY_NORMS)
SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=4)


def linear(inputs: int = 4, classes: int = 3) -> tuple[PiecewiseLinear, nn.Linear]:
    layer = nn.Linear(inputs, classes, dtype=torch.float64)
    nn.init.normal_(layer.weight, generator=seeding.generator(0, "weights"))
    return PiecewiseLinear([nn.Flatten(), layer]), layer


@given(SHAPES, st.integers(0, 1000))
def test_norms_are_their_formulas(shape: list[int], seed: int) -> None:
    """√Σ d², the mean of √Σ d_b², the mean of Σ d_b², for any shape (B, ...), contiguous or not."""
    d = torch.randn(shape, generator=seeding.generator(seed, "d"), dtype=torch.float64)
    rows = [float(sum(value**2 for value in row.flatten().tolist())) for row in d]
    expected = {
        "batch": sum(rows) ** 0.5,
        "sample": sum(r**0.5 for r in rows) / len(rows),
        "squared": sum(rows) / len(rows),
    }
    for name, norm in penalties.PENALTY_NORMS.items():
        assert norm(d).item() == pytest.approx(expected[name])
        assert norm(d.mT.contiguous().mT).item() == pytest.approx(expected[name])


@given(SHAPES, st.floats(0.1, 10), st.integers(0, 1000))
def test_norms_scale(shape: list[int], factor: float, seed: int) -> None:
    """‖sd‖ = s‖d‖, and s² for the squared norm; B equal samples: batch = √B · sample."""
    d = torch.randn(shape, generator=seeding.generator(seed, "d"), dtype=torch.float64)
    for name, norm in penalties.PENALTY_NORMS.items():
        assert norm(factor * d).item() == pytest.approx(factor ** (1 + (name == "squared")) * norm(d).item())
    same = d[:1].expand(4, *d.shape[1:])
    assert penalties.batch_norm(same).item() == pytest.approx(2 * penalties.sample_norm(same).item())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("zeros", [1, 2])
def test_gradient_at_zero_is_zero(norm: str, zeros: int) -> None:
    """Where a sample, or the whole batch, is exactly zero, so is its gradient."""
    d = torch.ones(2, 3, 2, 2)
    d[:zeros] = 0
    d.requires_grad_()
    penalties.PENALTY_NORMS[norm](d).backward()
    assert d.grad is not None
    assert (d.grad[:zeros] == 0).all()
    assert torch.isfinite(d.grad).all()


@pytest.mark.parametrize("norm", NORMS)
def test_interpretation_vanishes_on_its_target(norm: str) -> None:
    """‖I − |g|‖ = 0 at I = |g| for "abs" and at I = g for "signed", with zero gradient."""
    g = torch.randn(2, 1, 3, 3, generator=seeding.generator(0, "g")).requires_grad_()
    for sign, target in (("abs", g.detach().abs()), ("signed", g.detach())):
        penalty = penalties.interpretation(target, g, norm=norm, sign=sign)
        assert penalty == 0
        assert (torch.autograd.grad(penalty, g)[0] == 0).all()


def test_interpretation_of_known_numbers() -> None:
    """I = (3, 0), g = (0, −4): both signs give 5; I = (3, 4), g = (0, −4): "abs" 3, "signed" √73."""
    g = torch.tensor([[[[0.0, -4.0]]]])
    near, far = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[3.0, 0.0]]]])
    assert penalties.interpretation(far, g) == penalties.interpretation(far, g, sign="signed") == 5
    assert penalties.interpretation(near, g) == 3
    assert penalties.interpretation(near, g, sign="signed").item() == pytest.approx(73**0.5)


def test_jacobian_of_a_linear_map() -> None:
    """f(x) = Wx: ‖J‖_F is √B‖W‖_F over the batch, ‖W‖_F a sample, ‖W‖_F² squared."""
    net, layer = linear()
    z, adjoint = net.linearize(torch.rand(5, 1, 2, 2, dtype=torch.float64))
    size = layer.weight.square().sum().sqrt().item()
    for norm, expected in {"batch": 5**0.5 * size, "sample": size, "squared": size**2}.items():
        assert penalties.jacobian(adjoint, z, norm=norm).item() == pytest.approx(expected)


def test_jacobian_penalty_decays_the_weights() -> None:
    """∂‖W‖_F²/∂W = 2W: the gradient reaches the parameters by one backward."""
    net, layer = linear()
    z, adjoint = net.linearize(torch.rand(5, 1, 2, 2, dtype=torch.float64))
    penalties.jacobian(adjoint, z, norm="squared").backward()
    torch.testing.assert_close(layer.weight.grad, 2 * layer.weight.detach())


def test_label_gradient_of_a_linear_map_is_the_labels_row() -> None:
    """f(x) = Wx: g = W_c for each sample's label c."""
    net, layer = linear()
    y = torch.tensor([2, 0, 2])
    z, adjoint = net.linearize(torch.rand(3, 1, 2, 2, dtype=torch.float64))
    assert torch.equal(penalties.label_gradient(adjoint, y, z).flatten(1), layer.weight[y])


def test_jacobian_collects_all_label_gradients() -> None:
    """‖J‖_F² = Σ_k ‖J_k‖², each row by label_gradient with the label k."""
    net, _ = linear()
    net.layers.append(nn.ReLU())
    z, adjoint = net.linearize(torch.randn(5, 1, 2, 2, generator=seeding.generator(0, "x"), dtype=torch.float64))
    rows = [penalties.label_gradient(adjoint, torch.full((5,), k), z).square().sum() for k in range(3)]
    assert penalties.jacobian(adjoint, z).item() == pytest.approx(sum(rows).item() ** 0.5)


def test_unknown_options_are_refused() -> None:
    """The error states the rule, then the value."""
    g = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="norm must be one of batch, sample, squared; it is 'l2'"):
        penalties.interpretation(g, g, norm="l2")
    with pytest.raises(ValueError, match="sign must be one of abs, signed; it is 'plus'"):
        penalties.interpretation(g, g, sign="plus")
    with pytest.raises(ValueError, match="norm must be one of batch"):
        penalties.jacobian(lambda e: e, torch.zeros(1, 2), norm="l2")
