"""Transposed convolutions and maximum poolings, differentiable, in the ways that are fast on a CPU.

Shapes: B batch, C·H·W image, h·w pooled image, L leading dimensions in one. A CPU's layers are fastest where the
channels of a pixel lie side by side in memory, so images are brought into that order first, and stay in it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad

#: Wᵀe of (e, weight, x's shape without its batch, stride, padding, dilation and groups by name).
ConvAdjoint = Callable[[Tensor, Tensor, torch.Size, dict[str, Any]], Tensor]

#: The side of the blocks in _blocks: their 16 pixels are a vector of AVX-512, or two of AVX2.
BLOCK = 4


def channels_last(x: Tensor) -> Tensor:
    """Images on a CPU with each pixel's channels side by side, the order in which its layers are fastest; else x."""
    if x.device.type != "cpu" or x.dim() != 4 or x.stride(1) == 1:
        return x
    return x.clone(memory_format=torch.channels_last)


class ConvTranspose(torch.autograd.Function):
    """Wᵀe of a convolution x ↦ Wx; ⟨v, Wᵀe⟩ = ⟨Wv, e⟩ makes its derivatives a convolution and a weight gradient."""

    @staticmethod
    def forward(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any], way: ConvAdjoint) -> Tensor:
        return way(e, weight, size, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        e, weight, _, ctx.geometry, _ = inputs
        ctx.save_for_backward(e, weight)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        e, weight = ctx.saved_tensors
        v = channels_last(v)
        de = F.conv2d(v, weight.to(v.dtype), **ctx.geometry) if ctx.needs_input_grad[0] else None
        dw = grad.conv2d_weight(v, weight.shape, e, **ctx.geometry) if ctx.needs_input_grad[1] else None
        return de, dw, None, None, None


def _patches(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    """One matrix product, and a sum of overlapping patches."""
    patches = torch.bmm(weight.flatten(1).t().expand(len(e), -1, -1), e.flatten(2))
    options = {name: value for name, value in geometry.items() if name != "groups"}
    return F.fold(patches, size[1:], weight.shape[2:], **options)


def _blocks(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    """One convolution, whose channels are a block's pixels: they fill a vector where the input's channels do not."""
    outputs, inputs, *kernel = weight.shape
    wide = [BLOCK + k - 1 for k in kernel]
    blocks = weight.new_zeros(inputs, BLOCK, BLOCK, *wide, outputs).movedim(-1, 3)
    c, i, j, o, h, w = blocks.stride()
    # A pixel's kernel lies as far down and to the right as its pixel does within the block.
    kernels = blocks.as_strided((inputs, BLOCK, BLOCK, outputs, *kernel), (c, i + h, j + w, o, h, w))
    kernels.copy_(_turn(weight)[:, None, None])
    y = F.conv2d(e, blocks.flatten(0, 2), padding=_margins(weight, geometry), stride=BLOCK)
    return F.pixel_shuffle(y, BLOCK)


def _turned(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    """A convolution with the kernels turned by 180°."""
    return F.conv2d(e, _turn(weight), padding=_margins(weight, geometry), dilation=geometry["dilation"])


def _transposed(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    x: Tensor = grad.conv2d_input((len(e), *size), weight.to(e.dtype), e, **geometry)
    return x


def fastest(layer: nn.Conv2d, size: torch.Size, geometry: dict[str, Any]) -> ConvAdjoint:
    """A CPU's transposed convolution is slow: several times with few input channels, else up to twice.

    size: C, H, W of the images.
    """
    weight = layer.weight
    if weight.device.type != "cpu" or layer.groups > 1:
        return _transposed
    turns = layer.stride == (1, 1) and min(_margins(weight, geometry)) >= 0
    divides = all(side % BLOCK == 0 for side in size[1:])
    if turns and divides and layer.dilation == (1, 1) and layer.in_channels <= 4 and min(layer.kernel_size) >= 5:
        return _blocks  # a smaller kernel would be lost among its zeros
    if weight[0].numel() <= layer.out_channels:
        return _patches
    return _turned if turns else _transposed


def _turn(weight: Tensor) -> Tensor:
    """The kernels turned by 180°, from outputs to inputs."""
    return weight.flip(2, 3).transpose(0, 1)


def _margins(weight: Tensor, geometry: dict[str, Any]) -> list[int]:
    """The turned convolution's padding: how far a kernel's last row and column lie from its first, less padding."""
    places = zip(weight.shape[2:], geometry["dilation"], geometry["padding"], strict=True)
    return [d * (k - 1) - p for k, d, p in places]


class MaxPoolTranspose(torch.autograd.Function):
    """Each entry of e_LBChw, on a CPU, put where its window's maximum was; its derivative takes it from there."""

    @staticmethod
    def forward(e: Tensor, index: Tensor, size: torch.Size, geometry: tuple[Any, ...]) -> Tensor:
        channels, *sides = size
        x = e.new_empty(*e.shape[:2], *sides, channels).movedim(-1, 2)
        for e_BChw, x_BCHW in zip(e, x, strict=True):
            torch.ops.aten.max_pool2d_with_indices_backward(e_BChw, x_BCHW, *geometry, index, grad_input=x_BCHW)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        index_BhwC = ctx.saved_tensors[0].movedim(1, -1)
        rows = index_BhwC.flatten(1, 2).expand(len(v), -1, -1, -1)
        de = v.movedim(2, -1).flatten(2, 3).gather(2, rows)
        return de.view(len(v), *index_BhwC.shape).movedim(-1, 2), None, None, None
