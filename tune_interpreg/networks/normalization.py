"""Rules for layers that normalize: batch, group and layer normalization, y = γ·x̂ + β with x̂ = (x − μ)/√(v + ε).

In eval mode, batch normalization takes μ and v from its running statistics. Then it is affine, with the adjoint
e ↦ γ·e/√(v + ε). All others take mean μ and variance v from x itself, over a set of n entries. The Jacobian of x ↦ x̂ is
the symmetric matrix P = r·(I − 11ᵀ/n − x̂x̂ᵀ/n) with r = 1/√(v + ε).

For batch normalization in train mode, the set spans the batch, and J is the Jacobian of the whole batch's result with
respect to the whole batch: (Jᵀe)_i = Σ_b (∂y_b/∂x_i)ᵀ e_b. So the gradient of image i contains its influence on the
logits of all images, exactly as in double backpropagation through the forward of train mode.

Shapes: B batch, C channels, S sets. The sets of x_BS... are along dimension 1, each over all other dimensions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tune_interpreg.networks.transposes import Adjoint, channels_last

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class Standardize(torch.autograd.Function):
    """Pe = r·(e − mean(e) − x̂·mean(e·x̂)): the transposed Jacobian of x ↦ x̂ applied to e, both of shape (B, S, ...).

    With a = Σ v·x̂, b = Σ e·x̂ and s = Σ v·Pe over a set, the derivative of s by e is Pv, because P is symmetric. That by
    x is −(r/n)·(s·x̂ + b·Pv + a·Pe), because ∂x̂/∂x = P and ∂r/∂x = −r²·x̂/n.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, x: Tensor, mean_S: Tensor, r_S: Tensor) -> Tensor:
        pe, b_S = _project(e, x, mean_S, r_S)
        ctx.save_for_backward(x, mean_S, r_S, pe, b_S)
        return pe

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, mean_S, r_S, pe, b_S = ctx.saved_tensors
        pv, a_S = _project(v, x, mean_S, r_S)
        dx = None
        if ctx.needs_input_grad[1]:
            others, shape = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
            s_S, scale_S = (v * pe).sum(others), -r_S * len(r_S) / x.numel()
            dx = (x - mean_S.view(shape)) * (scale_S * r_S * s_S).view(shape)
            dx += pv * (scale_S * b_S).view(shape)
            dx += pe * (scale_S * a_S).view(shape)
        return pv, dx, None, None


def _project(e: Tensor, x: Tensor, mean_S: Tensor, r_S: Tensor) -> tuple[Tensor, Tensor]:
    """Return Pe and Σ e·x̂, by PyTorch's fused backward of batch normalization without γ."""
    backward, mask = torch.ops.aten.native_batch_norm_backward, (True, True, False)
    pe, sum_S, _ = backward(e, x, None, None, None, mean_S, r_S, True, 0.0, mask)
    return pe, sum_S


def standardize(x: Tensor, eps: float) -> Adjoint:
    """Return the adjoint of x ↦ x̂, for x of shape (B, S, ...) and e of shape (..., B, S, ...)."""
    _, mean_S, r_S = torch.native_batch_norm(x.detach(), None, None, None, None, True, 0.0, eps)

    def adjoint(e: Tensor) -> Tensor:
        if e.dim() == x.dim():
            return Standardize.apply(e, x, mean_S, r_S)
        rows = [Standardize.apply(row, x, mean_S, r_S) for row in e.flatten(0, -x.dim() - 1)]
        return torch.stack(rows).view(e.shape)

    return adjoint


def batch_norm(layer: BatchNorm, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the rule of batch normalization, for x of shape (B, C, ...): per channel, over all other dimensions.

    The forward is the layer's own. So in train mode it changes the running statistics once, and the adjoint does not.
    """
    y, channel = layer(x), (-1, *[1] * (x.dim() - 2))
    if layer.training or layer.running_var is None:
        return y, _scaled(layer.weight, channel, standardize(x, layer.eps))
    r = (layer.running_var + layer.eps).rsqrt()
    return y, _scaled(r if layer.weight is None else layer.weight * r, channel, lambda e: e)


def group_norm(layer: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the rule of group normalization, for x of shape (B, C, ...): per sample, over a group of channels."""
    return _per_sample(layer, x, (-1, *[1] * (x.dim() - 2)), len(x) * layer.num_groups)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the rule of layer normalization: per sample, over the last dimensions."""
    shape = tuple(layer.normalized_shape)
    return _per_sample(layer, x, shape, x.shape[: -len(shape)].numel())


def _per_sample(
    layer: nn.GroupNorm | nn.LayerNorm, x: Tensor, shape: tuple[int, ...], sets: int
) -> tuple[Tensor, Adjoint]:
    """Return the rule of a layer with its sets one after the other in memory, and with γ of this shape."""
    project = standardize(x.reshape(1, sets, -1), layer.eps)

    def adjoint(e: Tensor) -> Tensor:
        return channels_last(project(e.reshape(*e.shape[: -x.dim()], 1, sets, -1)).view(e.shape))

    return layer(x), _scaled(layer.weight, shape, adjoint)


def _scaled(weight: Tensor | None, shape: tuple[int, ...], adjoint: Adjoint) -> Adjoint:
    """Return the adjoint of y ↦ γ·y after the layer of this adjoint, with γ in this shape (None: γ = 1)."""
    if weight is None:
        return adjoint
    scale = weight.view(shape)
    return lambda e: adjoint(e * scale.to(e.dtype))
