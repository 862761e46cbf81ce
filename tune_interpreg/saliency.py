"""Saliency maps: the label's gradient, SmoothGrad, and what is done to maps before training on them.

Shapes: B batch, C·H·W image, D = C·H·W, K classes, M noisy copies in one forward, N maps of a data set.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg.models import linearize

# Eight-byte keys and indices for this many values: about 100 MB while a data set's maps are permuted.
VALUES_PERMUTED_AT_ONCE = 2**22


@torch.no_grad()
def simple_gradient(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
    """The label's input gradient g = J_c(x), of the logits.

    Args:
        x_BCHW: images, pixels in [0, 1]. y_B: labels c.
    Returns: g_BCHW, signed, logits per pixel, without graph. The model runs in the mode it is in.
    """
    z_BK, adjoint = linearize(model, x_BCHW)
    return adjoint(F.one_hot(y_B, z_BK.shape[-1]).to(z_BK.dtype))


@torch.no_grad()
def smoothgrad(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    *,
    sigma: float,
    samples: int,
    generator: torch.Generator,
    chunk: int,
) -> Tensor:
    """SmoothGrad I(x) = (1/N) Σ_i |J_c(x + e_i)|, e_i ~ N(0, σ²) (Eq. 4).

    Args:
        x_BCHW: images, pixels in [0, 1]; the noisy ones are not clamped. y_B: labels c.
        sigma: σ, pixels in [0, 1].
        samples: N ≥ 1.
        generator: on x's device; its draws do not depend on chunk.
        chunk: M ≥ 1, noisy copies in one forward: at most chunk·B images are in memory.
    Returns: I_BCHW ≥ 0, logits per pixel, without graph. The model runs in the mode it is in.
    """
    total_BCHW = torch.zeros_like(x_BCHW)
    for first in range(0, samples, chunk):
        copies = min(chunk, samples - first)
        noisy_MBCHW = torch.stack([x_BCHW + sigma * _normal(x_BCHW, generator) for _ in range(copies)])
        g_MBCHW = simple_gradient(model, noisy_MBCHW.flatten(0, 1), y_B.repeat(copies)).view_as(noisy_MBCHW)
        total_BCHW += g_MBCHW.abs().sum(0)
    return total_BCHW / samples


def threshold(maps_BCHW: Tensor, phi: float) -> Tensor:
    """Each map with its values below mean + φ·std set to 0.

    Mean and (unbiased) std run over the C·H·W values of the one map. Capture-safe.

    Args:
        maps_BCHW: raw maps.
        phi: φ, in standard deviations; the larger, the sparser.
    Returns: maps_BCHW of the same shape and dtype.
    """
    std_B111, mean_B111 = torch.std_mean(maps_BCHW, dim=(-3, -2, -1), keepdim=True)
    return maps_BCHW.masked_fill(maps_BCHW < mean_B111 + phi * std_B111, 0.0)


def permute(maps_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Each map with its C·H·W values in a random order of its own, across channels.

    Args:
        maps_NCHW: raw maps.
        generator: on the maps' device; fixes the permutations.
    Returns: maps_NCHW, a copy; beside it some 100 MB of working memory, however large N is.
    """
    maps_ND = maps_NCHW.flatten(1)
    permuted_ND = torch.empty_like(maps_ND)
    rows = max(1, VALUES_PERMUTED_AT_ONCE // maps_ND.shape[1])
    for part, source in zip(permuted_ND.split(rows), maps_ND.split(rows), strict=True):
        # float32 keys tie within most maps of 3,072 values; float64 keys do not.
        keys = torch.rand(source.shape, generator=generator, device=source.device, dtype=torch.float64)
        part.copy_(source.gather(1, keys.argsort(1)))
    return permuted_ND.view_as(maps_NCHW)


def _normal(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device, dtype=x_BCHW.dtype)
