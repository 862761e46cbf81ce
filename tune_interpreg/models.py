"""Piecewise-linear convolutional networks: the forward, and the adjoint of its Jacobian.

Shapes: B batch, C·H·W image, D flat features, K classes; `...` any leading dimensions.
Where a network f is linear around x, J = ∂f/∂x is a product of its layers' matrices, so Jᵀe is a short
forward computation: the transposed layers in reverse order, with the masks that f(x) left behind. Models
take pixels in [0, 1] and return logits.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad

from tune_interpreg import registry

Adjoint = Callable[[Tensor], Tensor]
Rule = Callable[[Any, Tensor], tuple[Tensor, Adjoint]]


class Dropout(nn.Module):
    """Zero each entry with probability p in [0, 1) and divide the rest by 1 − p; the identity in eval mode.

    Raises:
        ValueError: p is outside [0, 1).
        RuntimeError: in train mode, without a generator from set_dropout_generator.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must lie in [0, 1); it is {p}")
        self.p = p
        self.generator: torch.Generator | None = None

    def mask(self, x: Tensor) -> Tensor:
        """Return one draw m of the mask for x: m = 0 with probability p, else 1/(1 − p)."""
        if self.generator is None:
            raise RuntimeError("Dropout: train mode needs a generator; call set_dropout_generator(model, generator)")
        keep = 1 - self.p
        return torch.empty_like(x).bernoulli_(keep, generator=self.generator).div_(keep)

    def forward(self, x: Tensor) -> Tensor:
        """Return m·x in train mode, x in eval mode."""
        return x * self.mask(x) if self.training else x


def set_dropout_generator(model: nn.Module, generator: torch.Generator) -> None:
    """Let every Dropout of `model` draw its masks from `generator`, which lies on the model's device."""
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.generator = generator


class _ConvAdjoint(torch.autograd.Function):
    """Wᵀe of a convolution x ↦ Wx; ⟨v, Wᵀe⟩ = ⟨Wv, e⟩ makes its derivatives a convolution and a weight gradient.

    With few input channels (thin), one matrix product and a sum of overlapping patches is several times
    faster than a CPU's transposed convolution.
    """

    @staticmethod
    def forward(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any], thin: bool) -> Tensor:
        if thin:
            patches = torch.bmm(weight.flatten(1).t().expand(len(e), -1, -1), e.flatten(2))
            options = {name: value for name, value in geometry.items() if name != "groups"}
            return F.fold(patches, size[1:], weight.shape[2:], **options)
        x: Tensor = grad.conv2d_input((len(e), *size), weight, e, **geometry)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        e, weight, _, ctx.geometry, _ = inputs
        ctx.save_for_backward(e, weight)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        e, weight = ctx.saved_tensors
        de = F.conv2d(v, weight, **ctx.geometry) if ctx.needs_input_grad[0] else None
        dw = grad.conv2d_weight(v, weight.shape, e, **ctx.geometry) if ctx.needs_input_grad[1] else None
        return de, dw, None, None, None


def _conv2d(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Adjoint]:
    size, weight = x.shape[1:], layer.weight
    geometry = {name: getattr(layer, name) for name in ("stride", "dilation", "groups")} | {"padding": _padding(layer)}
    thin = x.device.type == "cpu" and layer.groups == 1 and weight[0].numel() <= layer.out_channels

    def adjoint(e: Tensor) -> Tensor:
        # Under autocast e is shorter than the weight.
        out: Tensor = _ConvAdjoint.apply(e.flatten(0, -4), weight.to(e.dtype), size, geometry, thin)
        return out.view(*e.shape[:-3], *size)

    return layer(x), adjoint


def _linear(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Adjoint]:
    weight = layer.weight
    return layer(x), lambda e: e @ weight


def _relu(layer: nn.ReLU, x: Tensor) -> tuple[Tensor, Adjoint]:
    y = layer(x)
    saved = y.detach()
    # Autograd's own rule: e where y > 0, else 0. Twice as fast as a product with a mask.
    return y, lambda e: torch.ops.aten.threshold_backward(e, saved, 0)


def _max_pool2d(layer: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, Adjoint]:
    kernel, stride, dilation = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation)
    y, index = F.max_pool2d_with_indices(
        x, kernel, stride, _pair(layer.padding), dilation, layer.ceil_mode, return_indices=True
    )
    index, size = index.flatten(-2), x.shape[-2:]
    disjoint = all(s > d * (k - 1) for k, s, d in zip(kernel, stride, dilation, strict=True))

    def adjoint(e: Tensor) -> Tensor:
        flat = e.flatten(-2)
        out = e.new_zeros(*flat.shape[:-1], size.numel())
        put = out.scatter_ if disjoint else out.scatter_add_
        return put(-1, index.expand(flat.shape), flat).unflatten(-1, size)

    return y, adjoint


def _avg_pool2d(layer: nn.AvgPool2d, x: Tensor) -> tuple[Tensor, Adjoint]:
    shape = x.shape[-3:]
    kernel, stride, padding = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding)
    options = (layer.ceil_mode, layer.count_include_pad, layer.divisor_override)

    def adjoint(e: Tensor) -> Tensor:
        batch = e.flatten(0, -4)
        like = e.new_empty(len(batch), *shape)  # only its shape is read
        out = torch.ops.aten.avg_pool2d_backward(batch, like, kernel, stride, padding, *options)
        return out.view(*e.shape[:-3], *shape)

    return layer(x), adjoint


def _flatten(layer: nn.Flatten, x: Tensor) -> tuple[Tensor, Adjoint]:
    return layer(x), lambda e: e.unflatten(-1, x.shape[1:])


def _dropout(layer: Dropout, x: Tensor) -> tuple[Tensor, Adjoint]:
    if not layer.training:
        return x, lambda e: e
    mask = layer.mask(x)
    return x * mask, lambda e: e * mask


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _conv2d,
    nn.Linear: _linear,
    nn.ReLU: _relu,
    nn.MaxPool2d: _max_pool2d,
    nn.AvgPool2d: _avg_pool2d,
    nn.Flatten: _flatten,
    Dropout: _dropout,
}


class PiecewiseLinear(nn.Module):
    """A chain of layers whose Jacobian's adjoint is itself a forward computation.

    Args:
        layers: applied in order; each of a type in RULES, from x_BCHW to z_BK.

    Raises:
        TypeError: layers of another type, or with an option that has no rule; all are named.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        problems = [f"layers.{i}: {problem}" for i, layer in enumerate(layers) if (problem := _problem(layer))]
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


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "same":
        return tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return (0, 0) if isinstance(layer.padding, str) else layer.padding


def _problem(layer: nn.Module) -> str | None:
    kind = type(layer).__name__
    if type(layer) not in RULES:
        supported = ", ".join(f"{known.__module__.split('.')[0]}.{known.__name__}" for known in RULES)
        return f"{type(layer).__module__}.{kind} has no rule; supported: {supported}"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"{kind} must pad with zeros; its padding_mode is {layer.padding_mode!r}"
    if isinstance(layer, nn.Conv2d) and layer.padding == "same" and any(k % 2 == 0 for k in layer.kernel_size):
        return f"{kind} with padding 'same' must have odd kernels; its kernel_size is {layer.kernel_size}"
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        return f"{kind} must keep the batch alone; its dimensions are {layer.start_dim} to {layer.end_dim}"
    return None
