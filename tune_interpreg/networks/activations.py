"""Rules for activations: functions φ of each entry by itself.

Around x an activation acts as the diagonal matrix of its slopes φ′(x), so the adjoint is e ↦ φ′(x)·e, for e of shape
(..., B, ...). A ReLU's slopes are constant around x. Those of a smooth activation depend on x, and so on the parameters
of all layers before it: their graph is part of the adjoint.
"""

import torch
from torch import Tensor, nn

from tune_interpreg.networks.transposes import Adjoint

#: Activations with the rule `smooth`: derivatives of any order by autograd, no randomness.
SMOOTH = (
    *(nn.PReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Hardswish),
)


class ReLUAdjoint:
    """The adjoint of a ReLU with result y: e where y > 0, else 0. Twice as fast as a product with a mask."""

    def __init__(self, y: Tensor) -> None:
        self.y = y.detach()

    def __call__(self, e: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(e, self.y, 0)

    def overwrite(self, e: Tensor) -> Tensor:
        """Return the same in e's memory, in half the time. Only without autograd."""
        return torch.ops.aten.threshold_backward.grad_input(e, self.y, 0, grad_input=e)


def relu(layer: nn.ReLU, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return max(x, 0) and its adjoint, with slope 0 at 0."""
    y = layer(x)
    return y, ReLUAdjoint(y)


def leaky_relu(layer: nn.LeakyReLU, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return max(x, 0) + a·min(x, 0) and its adjoint, with slope a at 0."""
    saved = x.detach()
    return layer(x), lambda e: torch.ops.aten.leaky_relu_backward(e, saved, layer.negative_slope, False)


def smooth(layer: nn.Module, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return φ(x) and e ↦ φ′(x)·e, both differentiable by x and by φ's own parameters (PReLU).

    The slopes are autograd's: one backward of φ at e = 1. So they are exact, with PyTorch's values at kinks. (At 0,
    PyTorch itself takes two slopes for PReLU: a in its first derivative, 1 in its second. Here it is a in both.)
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        y = layer(leaf)
        slope = torch.autograd.grad(y, leaf, torch.ones_like(y), create_graph=differentiable)[0]
    return y if differentiable else y.detach(), lambda e: e * slope
