"""Rules for layers that normalize: batch, group and layer normalization, y = γ·x̂ + β with x̂ = (x − μ)/√(v + ε).

In eval mode, batch normalization takes μ and v from its running statistics. Then it is affine, with the adjoint
e ↦ γ·e/√(v + ε). All others take mean μ and variance v from x itself, over a set of n entries. The Jacobian of x ↦ x̂ is
the symmetric matrix P = r·(I − 11ᵀ/n − x̂x̂ᵀ/n) with r = 1/√(v + ε).

For batch normalization in train mode, the set spans the batch, and J is the Jacobian of the whole batch's result with
respect to the whole batch: (Jᵀe)_i = Σ_b (∂y_b/∂x_i)ᵀ e_b. So the gradient of image i contains its influence on the
logits of all images, exactly as in double backpropagation through the forward of train mode.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tune_interpreg.networks.transposes import Adjoint

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class Standardize(torch.autograd.Function):
    """Pe = r·(e − mean(e) − x̂·mean(e·x̂)): the transposed Jacobian of x ↦ x̂, applied to e of shape (..., *x.shape).

    With a = Σ v·x̂, b = Σ e·x̂ and s = Σ v·Pe over a set, the derivative of s by e is Pv, because P is symmetric. That by
    x is −(r/n)·(s·x̂ + b·Pv + a·Pe), because ∂x̂/∂x = P and ∂r/∂x = −r²·x̂/n.
    """

    @staticmethod
    def forward(e: Tensor, x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
        return _project(e, *_standardize(x, dims, eps), dims)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        e, x, ctx.dims, ctx.eps = inputs
        ctx.save_for_backward(e, x, output)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        e, x, pe = ctx.saved_tensors
        dims = ctx.dims
        standard, r = _standardize(x, dims, ctx.eps)
        pv = _project(v, standard, r, dims)
        dx = None
        if ctx.needs_input_grad[1]:
            s, a, b = (_mean(left * right, dims) for left, right in ((v, pe), (v, standard), (e, standard)))
            dx = (-r * (s * standard + b * pv + a * pe)).sum_to_size(x.shape)
        return pv, dx, None, None


def _standardize(x: Tensor, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Return x̂ and r, with mean and variance over dims (negative, so that x may have leading dimensions)."""
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    r = (variance + eps).rsqrt()
    return (x - mean) * r, r


def _project(e: Tensor, standard: Tensor, r: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return Pe for x̂ = standard."""
    return r * (e - _mean(e, dims) - standard * _mean(e * standard, dims))


def _mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.mean(dims, keepdim=True)


def batch_norm(layer: BatchNorm, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the rule of batch normalization, for x of shape (B, C, ...): per channel, over all other dimensions.

    The forward is the layer's own. So in train mode it changes the running statistics once, and the adjoint does not.
    """
    y, channel = layer(x), (-1, *[1] * (x.dim() - 2))
    if layer.training or layer.running_var is None:
        dims = (-x.dim(), *range(2 - x.dim(), 0))
        return y, _scaled(layer.weight, channel, lambda e: Standardize.apply(e, x, dims, layer.eps))
    r = (layer.running_var + layer.eps).rsqrt()
    return y, _scaled(r if layer.weight is None else layer.weight * r, channel, lambda e: e)


def group_norm(layer: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the rule of group normalization, for x of shape (B, C, ...): per sample, over a group of channels."""
    channel, groups = (-1, *[1] * (x.dim() - 2)), (layer.num_groups, -1)
    grouped, dims = x.unflatten(1, groups), tuple(range(1 - x.dim(), 0))

    def adjoint(e: Tensor) -> Tensor:
        g = Standardize.apply(e.unflatten(1 - x.dim(), groups), grouped, dims, layer.eps)
        return g.flatten(-x.dim(), 1 - x.dim())

    return layer(x), _scaled(layer.weight, channel, adjoint)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the rule of layer normalization: per sample, over the last dimensions."""
    shape = tuple(layer.normalized_shape)
    dims = tuple(range(-len(shape), 0))
    return layer(x), _scaled(layer.weight, shape, lambda e: Standardize.apply(e, x, dims, layer.eps))


def _scaled(weight: Tensor | None, shape: tuple[int, ...], adjoint: Adjoint) -> Adjoint:
    """Return the adjoint of y ↦ γ·y after the layer of this adjoint, with γ in this shape (None: γ = 1)."""
    if weight is None:
        return adjoint
    scale = weight.view(shape)
    return lambda e: adjoint(e * scale.to(e.dtype))
