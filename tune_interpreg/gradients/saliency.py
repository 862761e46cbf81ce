"""Saliency maps: the label's gradient, SmoothGrad, thresholds and permutation.

Shapes: B batch, C·H·W image, D = C·H·W, K classes, M noisy copies in one forward, N noisy copies in total; N maps of a
data set.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from tune_interpreg.gradients import penalties
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import constant_statistics, multiply_in
from tune_interpreg.study.config import MapSettings

#: Values of maps that are permuted or compared at a time. With their temporary 8-byte numbers they take about 100 MB.
VALUES_AT_ONCE = 2**22

#: Allowed relative error of maps in float16. Rounding changes a value by up to 2^-11 of itself if it lies between 2^-14
#: and 65,504.
FLOAT16_ERROR = 2**-10


@torch.no_grad()
def simple_gradient(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, output: Literal["logits", "probabilities"] = "logits"
) -> Tensor:
    """Return the label's input gradient: g = J_c(x) of the logits, or p_c·(J_c − Σ_k p_k J_k) of the probabilities.

    Args:
        model: runs in its current mode, with constant running statistics.
        x_BCHW: images, pixels in [0, 1].
        y_B: labels c, integers in [0, K).

    Returns:
        g_BCHW, signed, output per pixel, without graph.
    """
    with constant_statistics(model):
        z_BK, logits_adjoint = linearize(model, x_BCHW)
    o_BK, adjoint = penalties.select_output(z_BK.to(x_BCHW.dtype), logits_adjoint, output)
    return penalties.label_gradient(adjoint, y_B, o_BK).to(x_BCHW.dtype)


@torch.no_grad()
def smoothgrad(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, settings: MapSettings, generator: torch.Generator, chunk: int
) -> Tensor:
    """Return SmoothGrad maps I(x) = (1/N) Σ_i |J_c(x + e_i)|, e_i ~ N(0, σ²) (Eq. 4), or a variant.

    Args:
        model, x_BCHW, y_B: as in `simple_gradient`.
        settings: σ in pixels, N = samples, and the variants. ``clamp``: clamp each x + e_i to [0, 1].
            ``include_clean``: average over N + 1 images, with x as the last. ``sign: signed``: average g instead of
            |g|. ``output``: as in ``simple_gradient``. ``precision``: of the products.
        generator: on x's device; its draws do not depend on chunk.
        chunk: M ≥ 1, noisy copies in one forward, so that at most chunk·B images are in memory.

    Returns:
        I_BCHW, output per pixel, ≥ 0 unless signed, without graph.
    """
    copies, total_BCHW = _copies(x_BCHW, settings, generator), torch.zeros_like(x_BCHW)
    count = settings.samples + settings.include_clean
    with multiply_in(settings.precision, x_BCHW.device):
        for _ in range(0, count, chunk):
            noisy_MBCHW = torch.stack(list(islice(copies, chunk)))
            labels = y_B.repeat(len(noisy_MBCHW))
            g = simple_gradient(model, noisy_MBCHW.flatten(0, 1), labels, output=settings.output)
            g_MBCHW = (g.abs() if settings.sign == "abs" else g).view_as(noisy_MBCHW)
            total_BCHW += g_MBCHW.sum(0)
    return total_BCHW / count


def threshold(maps_BCHW: Tensor, phi: float) -> Tensor:
    """Return maps with all values below mean + φ·std set to 0.

    Mean and (unbiased) std are over the C·H·W values of each map. Capture-safe.

    Args:
        maps_BCHW: raw maps.
        phi: φ, in standard deviations; larger is sparser.
    """
    std_B111, mean_B111 = torch.std_mean(maps_BCHW, dim=(-3, -2, -1), keepdim=True)
    return maps_BCHW.masked_fill(maps_BCHW < mean_B111 + phi * std_B111, 0.0)


def two_sided_threshold(maps_BCHW: Tensor, phi: float) -> Tensor:
    """Return signed maps with all values v, |v − mean| < φ·std, set to 0; see `threshold`, but φ ≥ 0."""
    std_B111, mean_B111 = torch.std_mean(maps_BCHW, dim=(-3, -2, -1), keepdim=True)
    return maps_BCHW.masked_fill((maps_BCHW - mean_B111).abs() < phi * std_B111, 0.0)


def permute(maps_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Return a copy of the maps, each with its C·H·W values in a random order, across channels. Capture-safe.

    Needs about 100 MB of working memory in addition, for any N.

    Args:
        maps_NCHW: raw maps.
        generator: draws the permutations; on the maps' device.
    """
    maps_ND = maps_NCHW.flatten(1)
    permuted_ND = torch.empty_like(maps_ND)
    rows = _rows_at_once(maps_ND)
    for part, source in zip(permuted_ND.split(rows), maps_ND.split(rows), strict=True):
        # Equal sort keys would favour an order. float32 keys collide in most maps of 3,072 values; 62 bits do not.
        keys = torch.randint(2**62, source.shape, generator=generator, device=source.device)
        part.copy_(source.gather(1, keys.argsort(1)))
    return permuted_ND.view_as(maps_NCHW)


def fits_float16(maps_NCHW: Tensor) -> bool:
    """Return whether float16 preserves every map I: ‖half(I) − I‖_p ≤ 2^-10·‖I‖_p for p = 1 and 2.

    Then no value overflows, no map becomes 0, and sum and l2 norm of each |I| are exact to one part in 1,024. Maps with
    values below float16's normal range (6e-5) may not fit.

    Args:
        maps_NCHW: maps in float32, possibly mapped from a file: each part is read once.
    """
    maps_ND = maps_NCHW.flatten(1)
    return all(_part_fits(part_ND) for part_ND in maps_ND.split(_rows_at_once(maps_ND)))


def _part_fits(maps_ND: Tensor) -> bool:
    # float64, because the square of the smallest float32 underflows in float32.
    exact_ND, half_ND = maps_ND.double(), maps_ND.half().double()
    distances = [torch.linalg.vector_norm(half_ND - exact_ND, p, dim=1) for p in (1, 2)]
    sizes = [torch.linalg.vector_norm(exact_ND, p, dim=1) for p in (1, 2)]
    return all(bool((d <= FLOAT16_ERROR * s).all()) for d, s in zip(distances, sizes, strict=True))


def _copies(x_BCHW: Tensor, settings: MapSettings, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the noisy images, then the clean ones if they are included."""
    for _ in range(settings.samples):
        noise_BCHW = torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device, dtype=x_BCHW.dtype)
        noisy_BCHW = x_BCHW + settings.sigma * noise_BCHW
        yield noisy_BCHW.clamp(0, 1) if settings.clamp else noisy_BCHW
    if settings.include_clean:
        yield x_BCHW


def _rows_at_once(maps_ND: Tensor) -> int:
    return max(1, VALUES_AT_ONCE // maps_ND.shape[1])
