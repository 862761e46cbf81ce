"""Rules for layers: the forward, and the transpose of the layer's Jacobian.

Around x a layer acts as a matrix W. A rule runs the layer on x of shape (B, ...) and returns the result and the adjoint
e ↦ Wᵀe, for e of shape (..., B, ...) with any leading dimensions. Both are differentiable, and W may depend on x (see
`activations` and `normalization`). At kinks and ties the adjoint follows PyTorch's backward: ReLU has slope 0 at 0, and
a maximum passes e to one entry only.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg.networks import activations, normalization
from tune_interpreg.networks.transposes import (
    Adjoint,
    ConvTranspose,
    MaxPoolTranspose,
    channels_last,
    choose_transpose,
)

Rule = Callable[[Any, Tensor], tuple[Tensor, Adjoint]]


class Dropout(nn.Module):
    """Zero each entry with probability p in [0, 1) and divide the rest by 1 − p; the identity in eval mode.

    Unlike PyTorch's, it draws from its own generator and not from the global one.

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
        return torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator).div_(1 - self.p)

    def forward(self, x: Tensor) -> Tensor:
        """Return m·x in train mode, x in eval mode."""
        return x * self.mask(x) if self.training else x


class Dropout2d(Dropout):
    """Zero each channel of each sample with probability p in [0, 1), for x of shape (B, C, ...); see Dropout."""

    def mask(self, x: Tensor) -> Tensor:
        """Return one draw m of the mask, of shape (B, C, 1, ...): m = 0 with probability p, else 1/(1 − p)."""
        return super().mask(x.flatten(2)[..., 0]).view(*x.shape[:2], *[1] * (x.dim() - 2))


def replace_dropout(model: nn.Module) -> nn.Module:
    """Turn every torch.nn.Dropout and Dropout2d inside `model` into the ones of this module; return the model.

    Each stays the same object, so that ties, hooks and the user's attributes stay.

    Raises:
        ValueError: p is 1.
    """
    replacements: dict[type[nn.Module], type[Dropout]] = {nn.Dropout: Dropout, nn.Dropout2d: Dropout2d}
    for layer in model.modules():
        replacement = replacements.get(type(layer))
        if replacement is not None:
            vars(layer)["generator"] = replacement(vars(layer)["p"]).generator  # the constructor checks p
            layer.__class__ = replacement
    return model


def set_dropout_generator(model: nn.Module, generator: torch.Generator) -> None:
    """Make every Dropout of `model` draw its masks from `generator`, which is on the model's device."""
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.generator = generator


def _conv2d(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Adjoint]:
    size = x.shape[1:]
    geometry = {name: getattr(layer, name) for name in ("stride", "dilation", "groups")} | {"padding": _padding(layer)}
    transpose = choose_transpose(layer, size, geometry)

    def adjoint(e: Tensor) -> Tensor:
        images = channels_last(e.flatten(0, -4))
        return ConvTranspose.apply(images, layer.weight, size, geometry, transpose).view(*e.shape[:-3], *size)

    return layer(x), adjoint


def _max_pool2d(layer: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, Adjoint]:
    sides = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    kernel, stride, padding, dilation = (side if isinstance(side, tuple) else (side, side) for side in sides)
    geometry = (kernel, stride, padding, dilation, layer.ceil_mode)
    y, index = F.max_pool2d_with_indices(x, *geometry, return_indices=True)
    size = x.shape[1:]
    if x.device.type == "cpu":

        def on_cpu(e: Tensor) -> Tensor:
            return MaxPoolTranspose.apply(e.reshape(-1, *y.shape), index, size, geometry).view(*e.shape[:-3], *size)

        return y, on_cpu
    index = index.flatten(-2)
    disjoint = all(s > d * (k - 1) for k, s, d in zip(kernel, stride, dilation, strict=True))

    def adjoint(e: Tensor) -> Tensor:
        flat = e.flatten(-2)
        out = e.new_zeros(*flat.shape[:-1], size[1:].numel())
        put = out.scatter_ if disjoint else out.scatter_add_
        return put(-1, index.expand(flat.shape), flat).unflatten(-1, size[1:])

    return y, adjoint


def _average(layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d, x: Tensor) -> tuple[Tensor, Adjoint]:
    shape = x.shape[-3:]

    def adjoint(e: Tensor) -> Tensor:
        batch = e.flatten(0, -4)
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():  # the layer is linear, so its backward is the same at all inputs
            zeros = e.new_zeros(len(batch), *shape, requires_grad=True)
            out = torch.autograd.grad(layer(zeros), zeros, batch, create_graph=differentiable)[0]
        return channels_last(out).view(*e.shape[:-3], *shape)

    return layer(x), adjoint


def _flatten(layer: nn.Flatten, x: Tensor) -> tuple[Tensor, Adjoint]:
    size = x.shape[1:]
    return layer(x), lambda e: channels_last(e.reshape(-1, *size)).view(*e.shape[:-1], *size)


def _dropout(layer: Dropout, x: Tensor) -> tuple[Tensor, Adjoint]:
    if not layer.training:
        return x, lambda e: e
    mask = layer.mask(x)
    return x * mask, lambda e: e * mask


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _conv2d,
    nn.Linear: lambda layer, x: (layer(x), lambda e: e @ layer.weight),
    nn.ReLU: activations.relu,
    nn.LeakyReLU: activations.leaky_relu,
    **dict.fromkeys(activations.SMOOTH, activations.smooth),
    nn.MaxPool2d: _max_pool2d,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _average,
    nn.BatchNorm1d: normalization.batch_norm,
    nn.BatchNorm2d: normalization.batch_norm,
    nn.GroupNorm: normalization.group_norm,
    nn.LayerNorm: normalization.layer_norm,
    nn.Flatten: _flatten,
    nn.Identity: lambda layer, x: (x, lambda e: e),
    Dropout: _dropout,
    Dropout2d: _dropout,
}


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "same":
        return tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return (0, 0) if isinstance(layer.padding, str) else layer.padding


def find_rule(layer: nn.Module) -> Rule:
    """Return the layer's own method linearize(x) -> (y, adjoint) if it has one, else the rule of its type."""
    return getattr(type(layer), "linearize", None) or RULES[type(layer)]


def has_hooks(layer: nn.Module) -> bool:
    """Return whether the layer has forward hooks."""
    # PyTorch has no query for this, but the handle of a new hook knows the dictionary of all hooks.
    handles = (layer.register_forward_pre_hook(print), layer.register_forward_hook(print))
    counts = [len(handle.hooks_dict_ref() or ()) for handle in handles]
    for handle in handles:
        handle.remove()
    return max(counts) > 1


def find_problem(layer: nn.Module) -> str | None:
    """Return why the layer has no exact adjoint, or None if it has one."""
    kind = type(layer).__name__
    if has_hooks(layer):
        return f"{kind} must have no forward hooks, because an adjoint cannot follow their changes"
    if hasattr(layer, "linearize"):
        forward, linearize = (_find_class(layer, name) for name in ("forward", "linearize"))
        inherits = linearize is not None and forward is not linearize and issubclass(forward, linearize)
        return f"{kind} changes forward, but inherits linearize from {linearize.__name__}" if inherits else None
    if type(layer) not in RULES:
        return f"{type(layer).__module__}.{kind} has neither a rule nor a linearize method"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"{kind} must pad with zeros; its padding_mode is {layer.padding_mode!r}"
    if isinstance(layer, nn.Conv2d) and layer.padding == "same" and any(k % 2 == 0 for k in layer.kernel_size):
        return f"{kind} with padding 'same' must have odd kernels; its kernel_size is {layer.kernel_size}"
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        return f"{kind} must flatten dimensions 1 to -1; its dimensions are {layer.start_dim} to {layer.end_dim}"
    return None


def _find_class(layer: nn.Module, method: str) -> Any:
    """Return the class that defines the layer's method, or None."""
    return next((kind for kind in type(layer).__mro__ if method in vars(kind)), None)
