"""Random flips and shifts of training images together with their target maps, on the device, with fixed shapes.

Shapes: B batch, C·H·W image, P = H·W.
"""

import torch
from torch import Tensor

from tune_interpreg.study.config import Augment


def augment(
    x_BCHW: Tensor, target_BCHW: Tensor | None, settings: Augment, *, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Flip and shift each image, and its target map in the same way. Capture-safe.

    A crop of the image padded by p zeros is a shift by up to p pixels that fills with 0.

    Args:
        x_BCHW: pixels in [0, 1]. target_BCHW: maps of the same shape, or None. generator: on x's device.
    """
    batch, _, height, width = x_BCHW.shape
    rows_BH = _draw_shift(height, batch, settings.crop, generator)
    columns_BW = _draw_shift(width, batch, settings.crop, generator)
    if settings.flip:
        flip_B1 = torch.rand(batch, 1, generator=generator, device=generator.device) < 0.5
        columns_BW = torch.where(flip_B1, columns_BW.flip(1), columns_BW)
    moved_BCHW = None if target_BCHW is None else _gather(target_BCHW, rows_BH, columns_BW)
    return _gather(x_BCHW, rows_BH, columns_BW), moved_BCHW


def _draw_shift(size: int, batch: int, padding: int, generator: torch.Generator) -> Tensor:
    """Return the source index of each row or column of each image. Indices outside [0, size) are padding."""
    index = torch.arange(size, device=generator.device).expand(batch, size)
    if padding == 0:
        return index
    shift_B1 = torch.randint(-padding, padding + 1, (batch, 1), generator=generator, device=generator.device)
    return index + shift_B1


def _gather(x_BCHW: Tensor, rows_BH: Tensor, columns_BW: Tensor) -> Tensor:
    """Return x at these rows and columns of each image, 0 outside of the image."""
    _, channels, height, width = x_BCHW.shape
    rows_BHW, columns_BHW = torch.broadcast_tensors(rows_BH[:, :, None], columns_BW[:, None, :])
    inside_B1HW = ((rows_BHW >= 0) & (rows_BHW < height) & (columns_BHW >= 0) & (columns_BHW < width)).unsqueeze(1)
    flat_BP = (rows_BHW.clamp(0, height - 1) * width + columns_BHW.clamp(0, width - 1)).flatten(1)
    index_BCP = flat_BP.unsqueeze(1).expand(-1, channels, -1)
    return torch.where(inside_B1HW, x_BCHW.flatten(2).gather(2, index_BCP).view_as(x_BCHW), 0.0)
