"""The gradient of each penalty with respect to a net's parameters, against finite differences in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tune_interpreg import seeding
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.layers import Adjoint
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear

NORMS = list(penalties.PENALTY_NORMS)


def normal(*shape: int, purpose: str) -> Tensor:
    return torch.randn(shape, generator=seeding.generator(0, purpose), dtype=torch.float64)


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
    """A net with a kink of every kind, and a penalty of it as its output."""

    def __init__(self, penalty: Penalty, output: str) -> None:
        super().__init__()
        self.penalty, self.output = penalty, output
        layers = [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)]
        self.net = PiecewiseLinear(layers).double()
        for index, weight in enumerate(self.net.parameters()):
            nn.init.normal_(weight, generator=seeding.generator(index, "weights"))

    def forward(self, x: Tensor) -> Tensor:
        z, adjoint = penalties.select_output(*self.net.linearize(x), self.output)
        return self.penalty(z, adjoint, penalties.label_gradient(adjoint, Y, z))


@pytest.mark.parametrize("output", penalties.OUTPUTS)
@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_of_every_penalty_are_those_of_finite_differences(name: str, output: str) -> None:
    """∂penalty/∂w in float64, by central differences of each weight and bias."""
    net, x = Penalized(PENALTIES[name], output), normal(2, 1, 4, 4, purpose="x")
    keys, weights = zip(*net.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda *now: functional_call(net, dict(zip(keys, now, strict=True)), (x,)), weights, atol=1e-8, rtol=1e-6
    )
