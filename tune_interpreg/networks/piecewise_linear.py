"""Piecewise-linear convolutional networks: the forward, and the adjoint of its Jacobian.

Shapes: B batch, C·H·W image, D flat features, K classes; `...` any leading dimensions.
Where a network f is linear around x, J = ∂f/∂x is a product of its layers' matrices, so Jᵀe is a short
forward computation: the transposed layers in reverse order, with the masks that f(x) left behind. Models
take pixels in [0, 1] and return logits.
"""

import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from tune_interpreg import registry
from tune_interpreg.networks.layers import NEW, Adjoint, Dropout, ReLUAdjoint, own_dropout, problem, rule
from tune_interpreg.networks.transposes import channels_last
from tune_interpreg.networks.vetting import vet
from tune_interpreg.study.config import Model, Precision


class PiecewiseLinear(nn.Module):
    """A chain of layers whose Jacobian's adjoint is itself a forward computation.

    Args:
        layers: applied in order, from x_BCHW to z_BK; each of a type that has a rule, or with a linearize of its own.
            Only a ReLU works in place, and where the layer before it makes a tensor that nothing keeps: else that would
            change the caller's images, or what an adjoint has kept.

    Raises:
        TypeError: layers of another type, or with an option that has no rule; all are named.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        problems = [f"layers.{i}: {why}" for i, layer in enumerate(layers) if (why := problem(layer))]
        if problems:
            raise TypeError("PiecewiseLinear: " + "\n".join(problems))
        for layer in layers:
            if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                layer.inplace = isinstance(layer, nn.ReLU)
        for before, after in pairwise((None, *layers)):
            if isinstance(after, nn.ReLU) and type(before) not in NEW:
                after.inplace = False
        self.layers = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the logits z_BK = f(x)."""
        z_BK: Tensor = self.layers(channels_last(x_BCHW))
        return z_BK

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        """Return the logits f(x) and the adjoint e ↦ Jᵀe of J = ∂f/∂x at x.

        Returns:
            z_BK, and a function from e of shape (..., B, K) to Jᵀe of shape (..., B, C, H, W), which is
            differentiable with respect to e and the parameters by one ordinary backward.
        """
        y, adjoints = channels_last(x_BCHW), []
        for layer in self.layers:
            y, adjoint = rule(layer)(layer, y)
            adjoints.append((adjoint, type(layer) in NEW))

        def compose(e: Tensor) -> Tensor:
            spare = False  # e is the caller's, or kept
            for adjoint, new in reversed(adjoints):
                if spare and isinstance(adjoint, ReLUAdjoint) and not torch.is_grad_enabled():
                    e = adjoint.overwrite(e)
                else:
                    e = adjoint(e)
                spare = new
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


def multiplying(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Within it networks multiply in this precision; their logits and adjoints then have it too."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def through_softmax(z_BK: Tensor, adjoint: Adjoint) -> tuple[Tensor, Adjoint]:
    """Return the probabilities p = softmax(f(x)) and the adjoint e ↦ Jᵀ(diag(p) − ppᵀ)e of their Jacobian.

    Args:
        z_BK: the logits f(x).
        adjoint: e ↦ Jᵀe of the logits' Jacobian J, from `linearize`.

    Returns:
        p_BK, and a function from e of shape (..., B, K) to (∂p/∂x)ᵀe = Jᵀ(p∘(e − Σ_k p_k e_k)) of shape
        (..., B, C, H, W); p depends on the parameters too, and so do the derivatives of both.
    """
    p_BK = z_BK.softmax(-1)
    likeliest_B1 = p_BK.argmax(-1, keepdim=True)

    def adjoint_p(e: Tensor) -> Tensor:
        # A shift of e changes nothing but the rounding: 1 − p of a confident net would be lost beside 1.
        e = e - e.gather(-1, likeliest_B1.expand(*e.shape[:-1], 1))
        return adjoint(p_BK * (e - (p_BK * e).sum(-1, keepdim=True)))

    return p_BK, adjoint_p


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


def cifar_cnn(shape: tuple[int, int, int], classes: int, *, fc_relu: bool = True) -> PiecewiseLinear:
    """Return the paper's net for CIFAR-10: unpadded 3×3 convolutions of 64, 64, 128, 128 channels, then 256, 256.

    shape is (C, H, W), with H and W at least 16. fc_relu: a ReLU follows each hidden fully connected layer; the
    authors' code has none there.
    """
    relu = [nn.ReLU()] if fc_relu else []
    channels, height, width = shape
    features = _features(128, ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2)
    return PiecewiseLinear(
        [
            *(nn.Conv2d(channels, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(features, 256), *relu, Dropout(0.5)),
            *(nn.Linear(256, 256), *relu, Dropout(0.5)),
            nn.Linear(256, classes),
        ]
    )


class SlowGradients(UserWarning):
    """A network whose penalties take double backpropagation."""


def build(model: Model, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
    """Return the network that `model` names, initialized, on the generator's device, in train mode.

    A Sequential of layers that have a rule becomes a PiecewiseLinear. Any other network without `linearize` stays what
    it is, and that is said once, by a SlowGradients warning. Dropout draws from generators of its own everywhere.

    Args:
        model: the name of a builder (shape, classes, **options) -> network that the registry knows, and its options.
        shape: C, H, W of an image.
        classes: K.
        generator: the weights' only source; the global generator is neither used nor disturbed.

    Raises:
        TypeError: a layer with parameters or buffers for which there is no scheme (see initialize).
        ValueError, RuntimeError: a network that is none for these images and classes (see vet).
    """
    builder = registry.resolve("models", model.name)
    with torch.device("meta"):  # no memory is filled and nothing is drawn until initialize
        network = _with_rules(own_dropout(builder(shape, classes, **model.options)), model.name)
    initialize(network.to_empty(device=generator.device), generator)
    if (built := (model.model_dump_json(), shape, classes)) not in _VETTED:
        vet(network, shape, classes)
        _VETTED.add(built)
    return network.train()


#: What this process has vetted: a worker builds the same network for trial after trial.
_VETTED: set[tuple[str, tuple[int, int, int], int]] = set()


def _with_rules(network: nn.Module, name: str) -> nn.Module:
    """The network with a `linearize` of its own, where all its layers have a rule; else the network, which is said."""
    if hasattr(network, "linearize"):
        return network
    chain = _chain(network, "")
    problems = [f"{place}: {why}".removeprefix(": ") for place, layer in chain.items() if (why := problem(layer))]
    if not problems:
        return PiecewiseLinear(list(chain.values()))
    _say_once(
        f"model {name}: penalties on its gradients take double backpropagation, which is exact but slower, because\n"
        + "\n".join(problems)
        + "\nBuild an nn.Sequential of supported layers, or give the layer or the network linearize(x) -> (y, e ↦ Jᵀe)"
    )
    return network


def _chain(network: nn.Module, place: str) -> dict[str, nn.Module]:
    """The layers that a Sequential, of Sequentials too, applies in order, by name; any other module is one layer."""
    hooked = network._forward_hooks or network._forward_pre_hooks
    if not isinstance(network, nn.Sequential) or type(network).forward is not nn.Sequential.forward or hooked:
        return {place: network}
    parts = [_chain(part, f"{place}.{name}".strip(".")) for name, part in zip(network._modules, network, strict=True)]
    return {name: layer for part in parts for name, layer in part.items()}


@cache
def _say_once(text: str) -> None:
    warnings.warn(text, SlowGradients, stacklevel=4)


def _features(channels: int, height: int, width: int) -> int:
    if min(height, width) < 1:
        raise ValueError(f"the images are too small for this net: its last feature map is {height}×{width}")
    return channels * height * width
