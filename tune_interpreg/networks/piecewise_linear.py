"""Piecewise-linear convolutional networks: the forward, and the adjoint of its Jacobian.

Shapes: B batch, C·H·W image, K classes; `...` any leading dimensions.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tune_interpreg.networks.layers import OVERWRITABLE, Adjoint, ReLUAdjoint, find_problem, find_rule
from tune_interpreg.networks.transposes import channels_last


class PiecewiseLinear(nn.Module):
    """A chain of layers with a Jacobian adjoint that is itself a forward computation.

    Around x the network f is linear, so J = ∂f/∂x is a product of its layers' matrices, and Jᵀe applies the transposed
    layers in reverse order, with the masks that the forward saved.

    Args:
        layers: applied in order, from x_BCHW to the logits z_BK. Each is of a supported type or has a `linearize`
            method. Their `inplace` is set here: only a ReLU works in place, on a tensor that is not read again.

    Raises:
        TypeError: names all layers that are not supported.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        reasons = [find_problem(layer) for layer in layers]
        problems = [f"layers.{i}: {reason}" for i, reason in enumerate(reasons) if reason]
        if problems:
            raise TypeError("PiecewiseLinear: " + "\n".join(problems))
        for layer in layers:
            if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                layer.inplace = isinstance(layer, nn.ReLU)
        for before, after in pairwise((None, *layers)):  # a ReLU may be used twice, so one unsafe place decides
            if isinstance(after, nn.ReLU) and type(before) not in OVERWRITABLE:
                after.inplace = False
        self.layers = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the logits z_BK = f(x)."""
        return self.layers(channels_last(x_BCHW))

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        """Return z_BK = f(x) and the adjoint e ↦ Jᵀe; see `networks.linearize`.

        One ordinary backward differentiates the adjoint by e and the parameters.
        """
        y, adjoints = channels_last(x_BCHW), []
        for layer in self.layers:
            y, layer_adjoint = find_rule(layer)(layer, y)
            adjoints.append((layer_adjoint, type(layer) in OVERWRITABLE))

        def adjoint(e: Tensor) -> Tensor:
            overwritable = False  # the first e belongs to the caller
            for layer_adjoint, returns_new in reversed(adjoints):
                if overwritable and isinstance(layer_adjoint, ReLUAdjoint) and not torch.is_grad_enabled():
                    e = layer_adjoint.overwrite(e)
                else:
                    e = layer_adjoint(e)
                overwritable = returns_new
            return e

        return y, adjoint
