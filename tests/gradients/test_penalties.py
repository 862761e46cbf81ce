"""Each penalty against its closed form; its gradients against finite differences; no NaN at corners."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from tune_interpreg import seeding
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.layers import Adjoint

NORMS = list(penalties.PENALTY_NORMS)
SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=4)


def normal(*shape: int, purpose: str = "x") -> Tensor:
    return torch.randn(shape, generator=seeding.generator(0, purpose), dtype=torch.float64)


def linear() -> tuple[Chain, nn.Linear]:
    layer = nn.Linear(4, 3, dtype=torch.float64)
    nn.init.normal_(layer.weight, generator=seeding.generator(0, "weights"))
    return Chain([nn.Flatten(), layer]), layer


@given(SHAPES, st.integers(0, 1000))
def test_norms_are_their_formulas(shape: list[int], seed: int) -> None:
    """√Σ d², mean √Σ d_b², mean Σ d_b², for any shape (B, ...), contiguous or not."""
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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("zeros", [1, 2])
def test_gradient_at_zero_is_zero(norm: str, zeros: int) -> None:
    """For one sample, or the whole batch."""
    d = torch.ones(2, 3, 2, 2)
    d[:zeros] = 0
    d.requires_grad_()
    penalties.PENALTY_NORMS[norm](d).backward()
    assert d.grad is not None
    assert (d.grad[:zeros] == 0).all()
    assert torch.isfinite(d.grad).all()


def test_interpretation_of_small_numbers() -> None:
    """g = (0, −4), I = (3, 4): "abs" gives 3, "signed" √73."""
    target, g = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, -4.0]]]])
    assert penalties.interpretation(target, g) == 3
    assert penalties.interpretation(target, g, sign="signed").item() == pytest.approx(73**0.5)


def test_jacobian_of_a_linear_map() -> None:
    """f(x) = Wx: batch √B‖W‖_F, sample ‖W‖_F, squared ‖W‖_F²."""
    net, layer = linear()
    z, adjoint = net.linearize(torch.rand(5, 1, 2, 2, dtype=torch.float64))
    size = layer.weight.square().sum().sqrt().item()
    for norm, expected in {"batch": 5**0.5 * size, "sample": size, "squared": size**2}.items():
        assert penalties.jacobian(adjoint, z, norm=norm).item() == pytest.approx(expected)


def test_unknown_options_are_refused() -> None:
    g = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="norm must be one of batch, sample, squared"):
        penalties.magnitude(g, norm="l2")
    with pytest.raises(ValueError, match="sign must be one of abs, signed"):
        penalties.interpretation(g, g, sign="plus")
    with pytest.raises(ValueError, match="output must be one of logits, probabilities"):
        penalties.select_output(torch.zeros(1, 2), lambda e: e, "p")


def test_jacobian_of_the_probabilities_of_a_linear_map() -> None:
    """p = softmax(Wx): ∂p/∂x = (diag(p) − ppᵀ)W. Its rows sum to zero, because probabilities sum to one."""
    net, layer = linear()
    z, logits_adjoint = net.linearize(normal(5, 1, 2, 2))
    p, adjoint = penalties.select_output(z, logits_adjoint, "probabilities")
    torch.testing.assert_close(p, z.softmax(-1))
    rows = torch.stack([penalties.label_gradient(adjoint, torch.full((5,), k), p).flatten(1) for k in range(3)])
    expected = torch.einsum("bkj,jd->kbd", torch.diag_embed(p) - p[:, :, None] * p[:, None], layer.weight)
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(rows.sum(0), torch.zeros(5, 4, dtype=torch.float64))
    assert penalties.jacobian(adjoint, p).item() == pytest.approx(expected.square().sum().sqrt().item())


def test_input_gradient_of_a_linear_map() -> None:
    """f(x) = Wx: ∂CE/∂x = Wᵀ(softmax(Wx) − e_c) for each sample, independent of the batch."""
    net, layer = linear()
    x, y = normal(4, 1, 2, 2), torch.tensor([0, 2, 1, 2])
    z, adjoint = net.linearize(x)
    d = penalties.cross_entropy_gradient(adjoint, y, z)
    torch.testing.assert_close(d.flatten(1), (z.softmax(-1) - torch.eye(3, dtype=torch.float64)[y]) @ layer.weight)
    z, adjoint = net.linearize(x[:1])
    torch.testing.assert_close(penalties.cross_entropy_gradient(adjoint, y[:1], z), d[:1])


def test_input_gradient_of_a_confident_sample_is_exact() -> None:
    """At a margin of 25 softmax(z)_c rounds to 1 in float32, but the gradient agrees with float64."""
    z, y, weight = torch.tensor([[25.0, 0.0, -1.0]]), torch.tensor([0]), normal(3, 4)
    single, double = (
        penalties.cross_entropy_gradient(lambda e: e @ weight.to(e.dtype), y, z.to(kind))
        for kind in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_cosine_distance_of_parallel_opposite_and_orthogonal_maps(scale: float, seed: int) -> None:
    """0 for I ∝ g, 2 for I ∝ −g, 1 for I ⊥ g; lengths have no effect."""
    g = torch.randn(3, 1, 2, 2, generator=seeding.generator(seed, "g"), dtype=torch.float64)
    turned = torch.stack([-g[..., 1], g[..., 0]], -1)
    for target, expected in ((g, 0.0), (-g, 2.0), (turned, 1.0)):
        assert penalties.cosine(scale * target, g).item() == pytest.approx(expected, abs=1e-12)


def test_cosine_distance_of_zeros() -> None:
    """The cosine and its gradient are 0 if I or g is; other samples are not affected."""
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]).view(4, 1, 1, 2)
    g = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]).view(4, 1, 1, 2).requires_grad_()
    distance = penalties.cosine(target, g)
    (gradient,) = torch.autograd.grad(distance, g)
    assert distance.item() == pytest.approx(1 - 0.5**0.5 / 4)
    assert (gradient[:3] == 0).all()
    torch.testing.assert_close(gradient[3].flatten(), torch.tensor([-1.0, 1.0]) * 0.5**0.5 / 8)


def test_projections_on_an_orthonormal_basis_are_exact() -> None:
    """(K/n) Σ ‖Jᵀv_i‖² = ‖J‖² for n = K, in every norm."""
    net, _ = linear()
    z, adjoint = net.linearize(normal(5, 1, 2, 2))
    basis = torch.linalg.qr(normal(5, 3, 3)).Q.transpose(0, 1)
    for norm in NORMS:
        expected = penalties.jacobian(adjoint, z, norm=norm).item()
        assert penalties.projected_jacobian(adjoint, basis, norm=norm).item() == pytest.approx(expected)


def test_unit_vectors_are_uniform_on_the_sphere() -> None:
    """‖v‖ = 1, E v = 0, E vvᵀ = 1/K, E v_k⁴ = 3/(K(K + 2)), all within 4 standard errors."""
    draws, classes = 20_000, 4
    v = penalties.unit_vectors(torch.zeros(draws, classes), 1, seeding.generator(0, "v"))[0].double()
    torch.testing.assert_close(v.norm(dim=1), torch.ones(draws, dtype=torch.float64))
    products = torch.einsum("bi,bj->bij", v, v).flatten(1)
    moments = torch.cat([v, products, v**4], 1)
    expected = torch.cat([torch.zeros(4), torch.eye(4).flatten() / 4, torch.full((4,), 3 / 24)])
    assert ((moments.mean(0) - expected).abs() <= 4 * moments.std(0) / draws**0.5).all()


@pytest.mark.parametrize("projections", [1, 2, 8])
def test_projections_are_unbiased_with_a_variance_of_one_over_n(projections: int) -> None:
    """f(x) = Wx, A = WWᵀ: mean tr A (4 standard errors), variance 2(K tr A² − (tr A)²)/((K + 2)n)."""
    net, layer = linear()
    z, adjoint = net.linearize(normal(1, 1, 2, 2))
    generator, draws = seeding.generator(projections, "v"), 4000
    with torch.no_grad():
        vectors = (penalties.unit_vectors(z, projections, generator) for _ in range(draws))
        estimates = torch.stack([penalties.projected_jacobian(adjoint, v, norm="squared") for v in vectors])
        a = layer.weight @ layer.weight.T
        exact, variance = a.trace(), 2 * (3 * (a @ a).trace() - a.trace() ** 2) / (5 * projections)
    assert abs(estimates.mean() - exact) <= 4 * (variance / draws) ** 0.5
    assert estimates.var().item() == pytest.approx(variance.item(), rel=0.1)


def test_repeated_jacobian_without_dropout_is_the_jacobian() -> None:
    """With row k of a sample at its k-th repeat."""
    net, _ = linear()
    net.layers.insert(0, nn.ReLU())
    x = normal(5, 1, 2, 2)
    z, adjoint = net.linearize(x)
    repeated, repeated_adjoint = net.linearize(x.repeat_interleave(3, 0))
    for norm in NORMS:
        expected = penalties.jacobian(adjoint, z, norm=norm)
        torch.testing.assert_close(penalties.repeated_jacobian(repeated_adjoint, repeated, norm=norm), expected)


Penalty = Callable[[Tensor, Adjoint, Tensor], Tensor]
Y = torch.tensor([0, 2])
MAPS, VECTORS = normal(2, 1, 4, 4, purpose="maps"), nn.functional.normalize(normal(2, 2, 3, purpose="v"), dim=-1)

PENALTIES: dict[str, Penalty] = {
    "cosine": lambda z, adjoint, g: penalties.cosine(MAPS, g),
    "input_gradient": lambda z, adjoint, g: penalties.magnitude(penalties.cross_entropy_gradient(adjoint, Y, z)),
    **{f"magnitude/{n}": lambda z, adjoint, g, n=n: penalties.magnitude(g, norm=n) for n in NORMS},
    **{f"interpretation/{n}": lambda z, adjoint, g, n=n: penalties.interpretation(MAPS, g, norm=n) for n in NORMS},
    "interpretation/signed": lambda z, adjoint, g: penalties.interpretation(MAPS, g, sign="signed"),
    **{f"jacobian/{n}": lambda z, adjoint, g, n=n: penalties.jacobian(adjoint, z, norm=n) for n in NORMS},
    "projections": lambda z, adjoint, g: penalties.projected_jacobian(adjoint, VECTORS),
}


class Penalized(nn.Module):
    """A network with every kind of kink, and a penalty as its output."""

    def __init__(self, penalty: Penalty, output: str) -> None:
        super().__init__()
        self.penalty, self.output = penalty, output
        layers = [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)]
        self.net = Chain(layers).double()
        for index, weight in enumerate(self.net.parameters()):
            nn.init.normal_(weight, generator=seeding.generator(index, "weights"))

    def forward(self, x: Tensor) -> Tensor:
        z, adjoint = penalties.select_output(*self.net.linearize(x), self.output)
        return self.penalty(z, adjoint, penalties.label_gradient(adjoint, Y, z))


@pytest.mark.parametrize("output", penalties.OUTPUTS)
@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_of_every_penalty_equal_finite_differences(name: str, output: str) -> None:
    """∂penalty/∂w in float64, by central differences."""
    net, x = Penalized(PENALTIES[name], output), normal(2, 1, 4, 4, purpose="x")
    keys, weights = zip(*net.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda *now: functional_call(net, dict(zip(keys, now, strict=True)), (x,)), weights, atol=1e-8, rtol=1e-6
    )
