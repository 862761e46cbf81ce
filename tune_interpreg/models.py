"""Piecewise-linear convolutional networks: the forward, and the adjoint of its Jacobian.

Shapes: B batch, C·H·W image, D flat features, K classes; `...` any leading dimensions.
Where a network f is linear around x, J = ∂f/∂x is a product of its layers' matrices, so Jᵀe is a short
forward computation: the transposed layers in reverse order, with the masks that f(x) left behind. Models
take pixels in [0, 1] and return logits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tune_interpreg import registry
from tune_interpreg.layers import RULES, Adjoint, Dropout, problem


class PiecewiseLinear(nn.Module):
    """A chain of layers whose Jacobian's adjoint is itself a forward computation.

    Args:
        layers: applied in order; each of a type in RULES, from x_BCHW to z_BK.

    Raises:
        TypeError: layers of another type, or with an option that has no rule; all are named.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        problems = [f"layers.{i}: {why}" for i, layer in enumerate(layers) if (why := problem(layer))]
        if problems:
            raise TypeError("PiecewiseLinear: " + "\n".join(problems))
        self.layers = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the logits z_BK = f(x)."""
        z_BK: Tensor = self.layers(x_BCHW)
        return z_BK

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        """Return the logits f(x) and the adjoint e ↦ Jᵀe of J = ∂f/∂x at x.

        Returns:
            z_BK, and a function from e of shape (..., B, K) to Jᵀe of shape (..., B, C, H, W), which is
            differentiable with respect to e and the parameters by one ordinary backward.
        """
        y, adjoints = x_BCHW, []
        for layer in self.layers:
            y, adjoint = RULES[type(layer)](layer, y)
            adjoints.append(adjoint)

        def compose(e: Tensor) -> Tensor:
            for adjoint in reversed(adjoints):
                e = adjoint(e)
            return e

        return y, compose


def linearize(model: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the logits f(x) and the adjoint e ↦ Jᵀe: the model's own, else by double backpropagation.

    Returns:
        z_BK, and a function from e of shape (..., B, K) to Jᵀe of shape (..., B, C, H, W). Both are
        differentiable with respect to the parameters where gradients are enabled when they are called.
    """
    own = getattr(model, "linearize", None)
    if own is not None:
        result: tuple[Tensor, Adjoint] = own(x_BCHW)
        return result
    return _double_backpropagation(model, x_BCHW)


def _double_backpropagation(model: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
    leaf = x_BCHW if x_BCHW.requires_grad else x_BCHW.detach().requires_grad_()
    with torch.enable_grad():
        z_BK: Tensor = model(leaf)

    def adjoint(e: Tensor) -> Tensor:
        create = torch.is_grad_enabled()
        rows = [
            torch.autograd.grad(z_BK, leaf, e_BK, retain_graph=True, create_graph=create)[0]
            for e_BK in e.reshape(-1, *z_BK.shape)
        ]
        return torch.stack(rows).view(*e.shape[:-1], *leaf.shape[1:])

    return z_BK if torch.is_grad_enabled() else z_BK.detach(), adjoint


def initialize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw the weights and biases of every layer from U(−1/√fan_in, 1/√fan_in), PyTorch's default scheme.

    Args:
        model: changed in place; its layers with parameters or buffers are Conv2d, Linear or normalization.
        generator: the only source of randomness, on the model's device.

    Returns:
        The model.

    Raises:
        TypeError: a layer with parameters or buffers of another type.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            layer.reset_parameters()
        elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            raise TypeError(f"initialize: {name or 'model'}: {type(layer).__name__} has no known scheme")
    return model


def digits_cnn(shape: tuple[int, int, int], classes: int) -> PiecewiseLinear:
    """Return a small net for 8×8 digits: two 3×3 convolutions of 16 and 32 channels, 64 hidden units.

    shape is (C, H, W), with H and W at least 4.
    """
    channels, height, width = shape
    return PiecewiseLinear(
        [
            *(nn.Conv2d(channels, 16, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(_features(32, height // 4, width // 4), 64), nn.ReLU()),
            nn.Linear(64, classes),
        ]
    )


def mnist_cnn(shape: tuple[int, int, int], classes: int) -> PiecewiseLinear:
    """Return the paper's net for MNIST: two padded 5×5 convolutions of 32 and 64 channels, 1024 hidden units.

    The maximum of a window and ReLU commute, with their derivatives; ReLU last has a quarter of the work.

    shape is (C, H, W), with H and W at least 4.
    """
    channels, height, width = shape
    return PiecewiseLinear(
        [
            *(nn.Conv2d(channels, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(_features(64, height // 4, width // 4), 1024), nn.ReLU(), Dropout(0.5)),
            nn.Linear(1024, classes),
        ]
    )


def cifar_cnn(shape: tuple[int, int, int], classes: int) -> PiecewiseLinear:
    """Return the paper's net for CIFAR-10: unpadded 3×3 convolutions of 64, 64, 128, 128 channels, then 256, 256.

    shape is (C, H, W), with H and W at least 16.
    """
    channels, height, width = shape
    features = _features(128, ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2)
    return PiecewiseLinear(
        [
            *(nn.Conv2d(channels, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(features, 256), nn.ReLU(), Dropout(0.5)),
            *(nn.Linear(256, 256), nn.ReLU(), Dropout(0.5)),
            nn.Linear(256, classes),
        ]
    )


def build(name: str, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
    """Return the model called `name`, initialized, on the generator's device, in train mode.

    Args:
        name: a builder (shape, classes) -> model, as the registry knows it.
        shape: C, H, W of an image.
        classes: K.
        generator: the weights' only source; the global generator is neither used nor disturbed.

    Raises:
        TypeError: a layer with parameters or buffers for which there is no scheme (see initialize).
    """
    builder = registry.resolve("models", name)
    with torch.device("meta"):  # no memory is filled and nothing is drawn until initialize
        model: nn.Module = builder(shape, classes)
    return initialize(model.to_empty(device=generator.device), generator).train()


def _features(channels: int, height: int, width: int) -> int:
    if min(height, width) < 1:
        raise ValueError(f"the images are too small for this net: its last feature map is {height}×{width}")
    return channels * height * width
