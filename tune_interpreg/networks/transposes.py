"""Transposed convolutions and maximum poolings, differentiable and fast on a CPU.

Shapes: B batch, C·H·W image, h·w pooled image, L leading dimensions flattened into one. PyTorch's CPU kernels are
fastest in the memory format channels_last, so images are converted to it once and stay in it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad

#: Function e ↦ Jᵀe of a layer or a network at one x, for e of shape (..., B, ...).
Adjoint = Callable[[Tensor], Tensor]

#: Function (e, weight, C·H·W of x, stride, padding, dilation and groups by name) → Wᵀe.
ConvAdjoint = Callable[[Tensor, Tensor, torch.Size, dict[str, Any]], Tensor]

#: Largest number of weights in `_turned`. To turn more of them takes longer than it saves.
TURNED = 2**16

#: Side of the blocks in `_blocks`: their 16 pixels fill one AVX-512 vector, or two of AVX2.
BLOCK = 4


def channels_last(x: Tensor) -> Tensor:
    """Return x in the memory format channels_last if it holds images on a CPU, else x itself."""
    if x.device.type != "cpu" or x.dim() != 4 or x.stride(1) == 1:
        return x
    return x.clone(memory_format=torch.channels_last)


class ConvTranspose(torch.autograd.Function):
    """Wᵀe of a convolution x ↦ Wx.

    Because ⟨v, Wᵀe⟩ = ⟨Wv, e⟩, its derivatives are a convolution of v and a convolution's weight gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any], formula: ConvAdjoint
    ) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(e, weight)
        return formula(e, weight, size, geometry)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        e, weight = ctx.saved_tensors
        v = channels_last(v)
        de = F.conv2d(v, weight.to(v.dtype), **ctx.geometry) if ctx.needs_input_grad[0] else None
        dw = grad.conv2d_weight(v, weight.shape, e, **ctx.geometry) if ctx.needs_input_grad[1] else None
        return de, dw, None, None, None


def _patches(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    """Return Wᵀe by one matrix product and a sum of overlapping patches."""
    patches = torch.bmm(weight.flatten(1).t().expand(len(e), -1, -1), e.flatten(2))
    options = {name: value for name, value in geometry.items() if name != "groups"}
    return F.fold(patches, size[1:], weight.shape[2:], **options)


def _blocks(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    """Return Wᵀe by one convolution with a block's pixels as channels, because few channels fill no CPU vector."""
    outputs, inputs, *kernel = weight.shape
    wide = [BLOCK + k - 1 for k in kernel]
    blocks = weight.new_zeros(inputs, BLOCK, BLOCK, *wide, outputs).movedim(-1, 3)
    c, i, j, o, h, w = blocks.stride()
    # Pixel (i, j) of a block has its kernel shifted by i rows and j columns.
    kernels = blocks.as_strided((inputs, BLOCK, BLOCK, outputs, *kernel), (c, i + h, j + w, o, h, w))
    kernels.copy_(_turn(weight)[:, None, None])
    y = F.conv2d(e, blocks.flatten(0, 2), padding=_margins(weight, geometry), stride=BLOCK)
    return F.pixel_shuffle(y, BLOCK)


def _turned(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    """Return Wᵀe by a convolution with the kernels turned by 180°."""
    return F.conv2d(e, _turn(weight), padding=_margins(weight, geometry), dilation=geometry["dilation"])


def _transposed(e: Tensor, weight: Tensor, size: torch.Size, geometry: dict[str, Any]) -> Tensor:
    """Return Wᵀe by PyTorch's own backward of a convolution.

    On a CPU it first reorders the images or the kernels, depending on the format of the input that it is given.
    """
    if e.device.type != "cpu" or e.numel() < weight.numel():
        return channels_last(grad.conv2d_input((len(e), *size), weight.to(e.dtype), e, **geometry))
    x = torch.empty((len(e), *size), dtype=e.dtype, memory_format=torch.channels_last)  # only its format matters
    stride, padding, dilation, groups = (geometry[name] for name in ("stride", "padding", "dilation", "groups"))
    backward, mask = torch.ops.aten.convolution_backward, (True, False, False)
    out: Tensor = backward(e, x, weight.to(e.dtype), None, stride, padding, dilation, False, [0, 0], groups, mask)[0]
    return out


def choose_transpose(layer: nn.Conv2d, size: torch.Size, geometry: dict[str, Any]) -> ConvAdjoint:
    """Return the fastest function for Wᵀe, with size = (C, H, W).

    On a CPU, `_turned` is up to 1.3 times as fast as PyTorch's own with 64 channels, and `_blocks` several times with
    few input channels.
    """
    weight = layer.weight
    if weight.device.type != "cpu" or layer.groups > 1:
        return _transposed
    turns = layer.stride == (1, 1) and min(_margins(weight, geometry)) >= 0
    divides = all(side % BLOCK == 0 for side in size[1:])
    if turns and divides and layer.dilation == (1, 1) and layer.in_channels <= 4 and min(layer.kernel_size) >= 5:
        return _blocks  # with a smaller kernel, most of its products would be with zeros
    if weight[0, 0].numel() > 1 and weight[0].numel() <= layer.out_channels:
        return _patches
    return _turned if turns and weight.numel() <= TURNED else _transposed


def _turn(weight: Tensor) -> Tensor:
    """Return the kernels turned by 180°, with inputs and outputs exchanged."""
    return weight.flip(2, 3).transpose(0, 1)


def _margins(weight: Tensor, geometry: dict[str, Any]) -> list[int]:
    """Return the padding of the turned convolution: d·(k − 1) − p for dilation d, kernel size k, padding p."""
    sides = zip(weight.shape[2:], geometry["dilation"], geometry["padding"], strict=True)
    return [d * (k - 1) - p for k, d, p in sides]


class MaxPoolTranspose(torch.autograd.Function):
    """The adjoint of max pooling on a CPU: put each entry of e_LBChw where its window has its maximum."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, index: Tensor, size: torch.Size, geometry: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(index)
        channels, *sides = size
        x = e.new_empty(*e.shape[:2], *sides, channels).movedim(-1, 2)
        for e_BChw, x_BCHW in zip(e, x, strict=True):
            torch.ops.aten.max_pool2d_with_indices_backward(e_BChw, x_BCHW, *geometry, index, grad_input=x_BCHW)
        return x

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        index_BhwC = ctx.saved_tensors[0].movedim(1, -1)
        rows = index_BhwC.flatten(1, 2).expand(len(v), -1, -1, -1)
        de = v.movedim(2, -1).flatten(2, 3).gather(2, rows)
        return de.view(len(v), *index_BhwC.shape).movedim(-1, 2), None, None, None
