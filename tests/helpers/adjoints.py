"""Compare a network's adjoint with automatic differentiation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.networks import layers

#: The shipped networks, with the shapes of small images.
NETS = {"digits_cnn": (1, 8, 8), "mnist_cnn": (1, 12, 12), "cifar_cnn": (3, 16, 16)}


def rewind(net: nn.Module) -> nn.Module:
    """Restart the network's dropout stream; return the network."""
    layers.set_dropout_generator(net, seeding.generator(0, "dropout"))
    return net


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    """Return the gradients of a loss with respect to the parameters; keep the graph."""
    return list(torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True, retain_graph=True))


def assert_close(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    """Assert equality to 1e-10 of the largest entry of ``second``; if all of it is 0, ``first`` must be 0."""
    scale = max(b.detach().abs().max().item() for b in second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * min(1, scale))
