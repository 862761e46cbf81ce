"""Compare a network's adjoint with automatic differentiation."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.gradients import penalties
from tune_interpreg.networks import layers
from tune_interpreg.networks.transposes import Adjoint

#: The shipped networks, with the shapes of small images.
NETS = {"digits_cnn": (1, 8, 8), "mnist_cnn": (1, 12, 12), "cifar_cnn": (3, 16, 16)}


def rewind(net: nn.Module) -> nn.Module:
    """Restart the network's dropout stream; return the network."""
    layers.set_dropout_generator(net, seeding.generator(0, "dropout"))
    return net


def randomize(net: nn.Module, purpose: str) -> nn.Module:
    """Draw all parameters and running statistics: weights in U(±1/√fan_in), the rest of order 1; return the network."""
    generator = seeding.generator(0, purpose)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.dim() > 1:
                tensor.uniform_(-1, 1, generator=generator).div_(tensor[0].numel() ** 0.5)
            elif name.endswith("var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point():
                tensor.uniform_(-1, 1, generator=generator)
    return rewind(net)


def all_penalties(z: Tensor, logits_adjoint: Adjoint, y: Tensor, t: Tensor) -> Iterator[Tensor]:
    """Yield every penalty under each of its options, of one forward."""
    d = penalties.cross_entropy_gradient(logits_adjoint, y, z)
    yield from (penalties.magnitude(d, norm=norm) for norm in penalties.PENALTY_NORMS)
    for output in penalties.OUTPUTS:
        o, adjoint = penalties.select_output(z, logits_adjoint, output)
        g, v = penalties.label_gradient(adjoint, y, o), penalties.unit_vectors(o, 2, seeding.generator(0, "v"))
        yield penalties.cosine(t - 0.5, g)
        for norm in penalties.PENALTY_NORMS:
            yield from (penalties.interpretation(t, g, norm=norm, sign=sign) for sign in penalties.SIGNS)
            yield penalties.jacobian(adjoint, o, norm=norm)
            yield penalties.projected_jacobian(adjoint, v, norm=norm)


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    """Return the gradients of a loss with respect to the parameters; keep the graph."""
    return list(torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True, retain_graph=True))


def assert_close(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    """Assert equality to 1e-10 of the largest entry of ``second``; if all of it is 0, ``first`` must be 0."""
    scale = max(b.detach().abs().max().item() for b in second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * min(1, scale))
