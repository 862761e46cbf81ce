"""The measures of interpretability: properties of a trained model's input gradients, one number per image.

Shapes: N images of a split, B batch, C·H·W image, D = C·H·W pixels, K classes, M noisy copies of each image.
g = ∇_x z_y is the gradient of the label's logit, m = |g| its map, and I ≥ 0 another map of the same image, such as a
teacher's SmoothGrad map. Pixels are in [0, 1].

All results are float64 and finite. Where a formula divides by 0, the function states the value that it returns, and the
measure ``zero_gradient`` counts the images with g = 0. Only the two norms and ``deletion`` depend on the scale of the
logits. All measures except ``norm_log_probability``, ``norm_centered_logit`` and ``deletion`` change when the same
function of x is added to all logits, although the classifier does not change (arXiv 2006.09128).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import pgd
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.evaluation.subject import Check, Subject
from tune_interpreg.gradients import penalties, saliency
from tune_interpreg.networks.layers import Adjoint
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study import metric_names as names

#: σ of the noise of `stability` in pixels, and the number of noisy copies of each image.
NOISE, COPIES = 0.05, 5

#: Random numbers are drawn in blocks of this many images, so that they do not depend on the batch size.
IMAGES_PER_DRAW = 32

#: Smaller relative changes of the logits are rounding errors of float32; `stability` divides by no less.
LEAST_CHANGE = 1e-6

#: Steps from the whole image to the image without pixels.
DELETION_STEPS = 20

#: Side and standard deviation, in pixels, of the window of `structural_similarity`, and its constants.
WINDOW, WINDOW_STD, LUMINANCE, CONTRAST = 11, 1.5, 0.01**2, 0.03**2

#: A larger mean rank correlation with the maps of a re-drawn model is a warning.
UNCHANGED = 0.5


def alignment(x_BCHW: Tensor, g_BCHW: Tensor) -> Tensor:
    """Return |⟨x, g⟩| / ‖g‖₂ of each image, in pixels; 0 where g = 0 (Etmann et al. 2019, arXiv 1905.04172).

    It equals ‖x‖₂·|cos(x, g)|, so brighter images have larger values. On images with a black background, any gradient
    that avoids the background has a large value; `subtract_mean` removes this advantage.

    Args:
        x_BCHW: images, or images without their means. g_BCHW: the gradients, signed.
    """
    return (_rows(x_BCHW) * _directions(g_BCHW)).sum(1).abs()


def subtract_mean(x_BCHW: Tensor) -> Tensor:
    """Return each image minus the mean of its C·H·W pixels."""
    return x_BCHW - x_BCHW.mean(dim=(1, 2, 3), keepdim=True)


def cosine_similarity(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Return cos(a, b) = ⟨a, b⟩ / (‖a‖₂·‖b‖₂) of each pair of maps, in [−1, 1]; 0 where a or b is 0."""
    return (_directions(a_BCHW) * _directions(b_BCHW)).sum(1)


def rank_correlation(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Return Spearman's ρ of each pair of maps, in [−1, 1]; 0 where a or b is constant.

    ρ is the correlation of the ranks 1..D; equal values share the mean of their ranks. It ignores the sizes of values,
    so that many almost black pixels outweigh the few bright ones.
    """
    return cosine_similarity(_centered_ranks(a_BCHW), _centered_ranks(b_BCHW))


def structural_similarity(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Return the mean SSIM of each pair of maps, in [−1, 1], after scaling each map to [0, 1] (Wang et al. 2004).

    SSIM = (2·μ_a·μ_b + C₁)(2·σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂)), with C₁ = 0.01², C₂ = 0.03², and
    moments under a Gaussian window of 11×11 pixels and standard deviation 1.5. The mean is over the channels and all
    positions of the window inside the image. In smaller images the window has the largest odd side that fits.

    A constant map becomes 0. Sparse maps are black almost everywhere, so even unrelated ones have a large SSIM.
    """
    a, b = _scale_to_unit(a_BCHW), _scale_to_unit(b_BCHW)
    mean_a, mean_b, square_a, square_b, product = _smooth(torch.stack([a, b, a * a, b * b, a * b]))
    covariance, variances = product - mean_a * mean_b, square_a - mean_a**2 + square_b - mean_b**2
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a**2 + mean_b**2 + LUMINANCE)
    return (luminance * (2 * covariance + CONTRAST) / (variances + CONTRAST)).mean(dim=(1, 2, 3)).double()


def sparsity(m_BCHW: Tensor) -> Tensor:
    """Return the Gini coefficient of each map, in [0, 1 − 1/D] (Chalasani et al., arXiv 1810.06583).

    Gini = 1 − 2·Σ_j (m_(j) / ‖m‖₁)·(D − j + ½)/D, with m sorted ascending, j = 1..D. It is 0 for a constant map, also
    for m = 0, and 1 − 1/D if a single pixel is not 0.

    Args:
        m_BCHW: maps ≥ 0.
    """
    sorted_BD = m_BCHW.flatten(1).sort(dim=1).values.double()
    pixels = sorted_BD.shape[1]
    # Σ_j 2·(D − j + ½)/D = D. So this is the same sum with weights that add up to 0: 1 − 2·(D − j + ½)/D.
    weights_D = (2 * torch.arange(1, pixels + 1, device=m_BCHW.device, dtype=torch.float64) - 1 - pixels) / pixels
    total_B = sorted_BD.sum(1)
    return (sorted_BD * weights_D).sum(1) / total_B.where(total_B > 0, 1.0)


def log_probability_norm(z_BK: Tensor, y_B: Tensor, adjoint: Adjoint) -> Tensor:
    """Return ‖∇_x log p_y‖₂ of each image, p = softmax(z), per pixel (arXiv 2006.09128).

    Adding the same function of x to all logits does not change it. It falls like e^−margin, so a confident model has a
    small norm however steep its logits are. It is exact up to a margin of 700.

    Args:
        z_BK, adjoint: from `linearize`. y_B: labels, integers in [0, K).
    """
    # ∇ log p_y = (1 − p_y)·Jᵀu with u = e_y − softmax of the other logits. In float32, p_y = 1 above a margin of 17.
    y_B1 = y_B[:, None]
    others_B = z_BK.double().softmax(1).scatter(1, y_B1, 0.0).sum(1)
    u_BK = -z_BK.scatter(1, y_B1, -torch.inf).softmax(1).scatter(1, y_B1, -1.0)
    return others_B * _lengths(adjoint(u_BK))


def centered_logit_norm(z_BK: Tensor, y_B: Tensor, adjoint: Adjoint) -> Tensor:
    """Return ‖∇_x (z_y − mean_k z_k)‖₂ of each image, in logits per pixel (arXiv 2006.09128).

    Adding the same function of x to all logits does not change it. It is proportional to the scale of the logits. The
    arguments are those of `log_probability_norm`.
    """
    onehot_BK = torch.zeros_like(z_BK).scatter_(1, y_B[:, None], 1.0)
    return _lengths(adjoint(onehot_BK - 1 / z_BK.shape[1]))


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """Return ‖after − before‖₂ / ‖before‖₂ of each row: 0 if both are equal, otherwise 1 if before = 0."""
    length_B, change_B = _lengths(before), _lengths(after.double() - before.double())
    return torch.where(length_B > 0, change_B / length_B.where(length_B > 0, 1.0), (change_B > 0).double())


def stability(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, z_BK: Tensor, g_BCHW: Tensor, noise_BMCHW: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the relative change of g under noise, and the same relative to the change of the logits; both ≥ 0.

    The first is the mean over e of r_g = ‖g(x + e) − g(x)‖₂ / ‖g(x)‖₂. The second is the mean over e of r_g / r_z. Here
    r_z = max(‖z̃(x + e) − z̃(x)‖₂ / ‖z̃(x)‖₂, 1e-6) is the relative change of the centered logits z̃ = z − mean_k z_k.
    Smaller is more stable. See `relative_change` for g(x) = 0.

    The second follows Relative Output Stability (Agarwal et al. 2022, arXiv 2203.06877), with two differences. The
    original divides the change of each pixel of the map by that pixel, and the whole by the absolute change of the
    logits, which favors models with large logits. Adversarial training may improve the first and worsen the second. A
    few images with small gradients may dominate the means.

    Args:
        model: in eval mode. x_BCHW, y_B: images and labels. z_BK, g_BCHW: logits and label gradients at x.
        noise_BMCHW: M draws of e for each image, in pixels. x + e is not clamped.
    """
    maps_change, ratios = [], []
    for e_BCHW in noise_BMCHW.unbind(1):
        noisy_BK, adjoint = linearize(model, x_BCHW + e_BCHW)
        maps_change.append(relative_change(g_BCHW, penalties.label_gradient(adjoint, y_B, noisy_BK)))
        logits_change_B = relative_change(_center_logits(z_BK), _center_logits(noisy_BK))
        ratios.append(maps_change[-1] / logits_change_B.clamp(min=LEAST_CHANGE))
    return torch.stack(maps_change).mean(0), torch.stack(ratios).mean(0)


def deletion(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, m_BCHW: Tensor, order_BD: Tensor) -> Tensor:
    """Return the area under p_y while the top pixels of m are deleted, minus the area in random order; in (−1, 1).

    (1/20) Σ_{s=1..19} [p_y(x without the top s·D/20 pixels of m) − p_y(x without s·D/20 random pixels)]. Deleted pixels
    become the mean of the image (Petsiuk et al. 2018, arXiv 1806.07421, who delete all channels of a position at once).
    This is the difference of the areas by the trapezoidal rule, because both curves have the same ends. Negative: the
    map finds pixels that matter more than random ones. Equal values of m are in random order, so a constant map has 0.

    Images without pixels are no images of the data, and the areas depend on the model's confidence. So compare arms
    only with the same order, image by image.

    Args:
        model: in eval mode. x_BCHW, y_B: images and labels. m_BCHW: maps.
        order_BD: a random order of the D pixels of each image, a permutation of 0..D−1.
    """
    shuffled_BD = m_BCHW.flatten(1).gather(1, order_BD)
    by_map_BD = order_BD.gather(1, shuffled_BD.argsort(dim=1, descending=True, stable=True))
    return _inner_area(model, x_BCHW, y_B, by_map_BD) - _inner_area(model, x_BCHW, y_B, order_BD)


@torch.no_grad()
def measure_interpretability(
    model: nn.Module,
    split: Split,
    *,
    maps: Mapping[str, Tensor],
    seed: int,
    batch_size: int,
    with_deletion: bool = True,
) -> dict[str, Tensor]:
    """Return all measures of interpretability of each image, by name.

    Runs the model in eval mode, then restores its modes. One g per image serves all measures. Without ``deletion``, an
    image takes 7 forwards and 7 adjoints; ``deletion`` takes 38 more forwards. An image's random draws depend on the
    seed and its position in the split, not on the batch size or the model.

    Args:
        model: from pixels to logits, K ≥ 2. split: N ≥ 1 images, on the model's device.
        maps: raw maps I_NCHW ≥ 0 of the same images, by name. Each gives three measures, ``similarity_cosine/NAME``,
            ``similarity_spearman/NAME`` and ``similarity_ssim/NAME``. A model that learned from maps is similar to them
            by its training, so pass also the maps of a robust model that no arm learned from.
        seed: of the noise and of the random order. batch_size: images per forward, at most; fewer on a CPU.
        with_deletion: measure ``deletion`` too.

    Returns:
        float64 of shape (N,) for each name of `metric_names`, on the model's device.

    Raises:
        ValueError: maps of another shape or with negative values, or a result that is not finite.
    """
    for name, map_NCHW in maps.items():
        _check_map(name, map_NCHW, split)
    device, shape = split.x_NCHW.device, split.x_NCHW.shape[1:]
    size = min(batch_size, pgd.IMAGES_PER_FORWARD) if device.type == "cpu" else batch_size
    noise_generator = seeding.generator(seed, "interpretability-noise", device)
    order_generator = seeding.generator(seed, "interpretability-order", device)
    positions = torch.arange(shape.numel(), device=device).expand(IMAGES_PER_DRAW, -1)[:, :, None, None]

    def draw_noise() -> Tensor:
        return NOISE * torch.randn((IMAGES_PER_DRAW, COPIES, *shape), generator=noise_generator, device=device)

    def draw_order() -> Tensor:
        return saliency.permute(positions, order_generator).flatten(1)

    batches = [slice(start, start + size) for start in range(0, len(split), size)]
    sizes = [len(split.y_N[rows]) for rows in batches]
    noises, orders = _deal(draw_noise, sizes), _deal(draw_order, sizes if with_deletion else ())
    parts: list[dict[str, Tensor]] = []
    with eval_mode(model):
        for rows, noise_BMCHW in zip(batches, noises, strict=True):
            x_BCHW, y_B = to_pixels(split.x_NCHW[rows]), split.y_N[rows]
            maps_B = {name: map_NCHW[rows].to(x_BCHW) for name, map_NCHW in maps.items()}
            part, m_BCHW = _measure_batch(model, x_BCHW, y_B, maps_B, noise_BMCHW)
            if with_deletion:
                part[names.DELETION] = deletion(model, x_BCHW, y_B, m_BCHW, next(orders))
            parts.append(part)
    results = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    infinite = {name: int((~values_N.isfinite()).sum()) for name, values_N in results.items()}
    faults = [f"{name} of {images} images" for name, images in infinite.items() if images]
    if faults:
        raise ValueError(
            f"measure_interpretability: results must be finite, but these are not: {', '.join(faults)}. The maps, or "
            "the model's logits or gradients, overflow or are NaN there. Correct the maps, or train the model again "
            "with a smaller learning rate or strength"
        )
    return results


def check_randomization(subject: Subject) -> Check:
    """11. The map m changes when the parameters are drawn again: of the last layer, then of all layers.

    Re-drawn entries are independent and normal, with the mean and the standard deviation of their tensor. values: mean
    Spearman's ρ of m before and after, for "last" and "all". The last layer is the last module with its own parameters.

    Finds: maps that show edges of the image, or the shape of the network, rather than the parameters (Adebayo et al.
    2018, arXiv 1810.03292). Such maps resemble a teacher's even without training. "last" has no limit, because features
    that all classes share keep m similar.
    """
    layers = _layers(subject.model)
    if not layers:
        return Check.from_faults("randomization", 0, "the model has no parameters to draw again", {}, {})
    before_NCHW = _maps(subject, subject.model)
    values, device = {}, subject.y_N.device
    for name, count in (("last", 1), ("all", len(layers))):
        redrawn = _redraw_layers(subject.model, count, seeding.generator(subject.seed, "randomization", device))
        values[name] = float(rank_correlation(before_NCHW, _maps(subject, redrawn)).mean())
    summary = (
        f"rank correlation with the maps after drawing the last layer again: {values['last']:.2f}; all layers: "
        f"{values['all']:.2f}"
    )
    fault = f"{summary}: the maps depend little on the parameters"
    return Check.from_faults("randomization", subject.n, summary, {fault: not values["all"] <= UNCHANGED}, values)


def _measure_batch(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, maps: Mapping[str, Tensor], noise_BMCHW: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Return all measures but ``deletion``, and m_BCHW."""
    z_BK, adjoint = linearize(model, x_BCHW)
    g_BCHW = penalties.label_gradient(adjoint, y_B, z_BK)
    m_BCHW, centered_BCHW = g_BCHW.abs(), subtract_mean(x_BCHW)
    results = {
        names.ZERO_GRADIENT: (m_BCHW.flatten(1).amax(1) == 0).double(),
        names.ALIGNMENT: alignment(x_BCHW, g_BCHW),
        names.ALIGNMENT_CENTERED: alignment(centered_BCHW, g_BCHW),
        names.ALIGNMENT_COSINE: cosine_similarity(x_BCHW, g_BCHW).abs(),
        names.ALIGNMENT_COSINE_CENTERED: cosine_similarity(centered_BCHW, g_BCHW).abs(),
        names.SPARSITY: sparsity(m_BCHW),
        names.NORM_LOG_PROBABILITY: log_probability_norm(z_BK, y_B, adjoint),
        names.NORM_CENTERED_LOGIT: centered_logit_norm(z_BK, y_B, adjoint),
    }
    ranks_BD = _centered_ranks(m_BCHW)
    for name, map_BCHW in maps.items():
        results[f"{names.SIMILARITY_COSINE}/{name}"] = cosine_similarity(m_BCHW, map_BCHW)
        results[f"{names.SIMILARITY_SPEARMAN}/{name}"] = cosine_similarity(ranks_BD, _centered_ranks(map_BCHW))
        results[f"{names.SIMILARITY_SSIM}/{name}"] = structural_similarity(m_BCHW, map_BCHW)
    change_B, ratio_B = stability(model, x_BCHW, y_B, z_BK, g_BCHW, noise_BMCHW)
    return results | {names.STABILITY: change_B, names.STABILITY_PER_LOGITS: ratio_B}, m_BCHW


def _inner_area(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, order_BD: Tensor) -> Tensor:
    """Return the area under p_y while pixels are deleted in this order, without the share of the curve's two ends."""
    mean_B111, pixels = x_BCHW.mean(dim=(1, 2, 3), keepdim=True), order_BD.shape[1]
    position_BCHW = order_BD.argsort(dim=1).view_as(x_BCHW)  # of each pixel in the order
    p_y = []
    for step in range(1, DELETION_STEPS):
        deleted_BCHW = position_BCHW < round(step * pixels / DELETION_STEPS)
        p_BK = model(x_BCHW.where(~deleted_BCHW, mean_B111)).double().softmax(1)
        p_y.append(p_BK.gather(1, y_B[:, None]).squeeze(1))
    return torch.stack(p_y).sum(0) / DELETION_STEPS


def _check_map(name: str, map_NCHW: Tensor, split: Split) -> None:
    expected, actual = tuple(split.x_NCHW.shape), tuple(map_NCHW.shape)
    if actual != expected:
        raise ValueError(f"maps[{name!r}]: one map per image, shape {expected}, got {actual}; make them for this split")
    least = float(map_NCHW.min())
    if not least >= 0:
        raise ValueError(f"maps[{name!r}]: values must be ≥ 0, got {least:g}; pass the absolute values of signed maps")


def _deal(draw: Callable[[], Tensor], sizes: Iterable[int]) -> Iterator[Tensor]:
    """Yield a part of this size for each size, cut from the rows of successive draws.

    A row's values depend on its position, not on the sizes. ``draw`` returns at least one row.
    """
    pool: Tensor | None = None
    for size in sizes:
        pool = draw() if pool is None else pool
        while len(pool) < size:
            pool = torch.cat([pool, draw()])
        yield pool[:size]
        pool = pool[size:]


def _maps(subject: Subject, model: nn.Module) -> Tensor:
    """Return m_NCHW of this model on the subject's images."""
    other = replace(subject, model=model)
    return other.map_batches(lambda x_BCHW, y_B: saliency.simple_gradient(model, x_BCHW, y_B).abs())


@torch.no_grad()
def _redraw_layers(model: nn.Module, count: int, generator: torch.Generator) -> nn.Module:
    """Return a copy of the model with new parameters in its last ``count`` layers, drawn from the last to the first."""
    redrawn = deepcopy(model)
    for layer in reversed(_layers(redrawn)[-count:]):
        for parameter in layer.parameters(recurse=False):
            std, mean = torch.std_mean(parameter, correction=0)
            parameter.copy_(mean + std * torch.empty_like(parameter).normal_(generator=generator))
    return redrawn


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the modules that have parameters of their own, in the model's order."""
    return [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]


def _rows(v: Tensor) -> Tensor:
    """Return v of shape (B, ...) as float64 of shape (B, D). In float32 the squares of small gradients would be 0."""
    return v.flatten(1).double()


def _lengths(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_rows(v), dim=1)


def _directions(v: Tensor) -> Tensor:
    """Return v/‖v‖₂ by rows; 0 where v = 0."""
    length_B1 = _lengths(v)[:, None]
    return _rows(v) / length_B1.where(length_B1 > 0, 1.0)


def _centered_ranks(v_BCHW: Tensor) -> Tensor:
    """Return the rank of each value in its map, 1..D, minus (D + 1)/2. Equal values share the mean of their ranks."""
    sorted_BD, order_BD = v_BCHW.flatten(1).sort(dim=1)
    smaller_BD = torch.searchsorted(sorted_BD, sorted_BD)
    at_most_BD = torch.searchsorted(sorted_BD, sorted_BD, right=True)
    ranks_BD = (smaller_BD + at_most_BD - sorted_BD.shape[1]).double() / 2
    # NaN has no rank. It must not look like the largest value.
    return torch.empty_like(ranks_BD).scatter_(1, order_BD, ranks_BD.where(~sorted_BD.isnan(), torch.nan))


def _center_logits(z_BK: Tensor) -> Tensor:
    return z_BK.double() - z_BK.double().mean(1, keepdim=True)


def _scale_to_unit(m_BCHW: Tensor) -> Tensor:
    """Return (m − min)/(max − min) of each map; 0 where m is constant."""
    low_B111, high_B111 = torch.aminmax(m_BCHW.flatten(1), dim=1)
    range_B111 = (high_B111 - low_B111).view(-1, 1, 1, 1)
    return (m_BCHW - low_B111.view(-1, 1, 1, 1)) / range_B111.where(range_B111 > 0, 1.0)


def _smooth(v_SBCHW: Tensor) -> Tensor:
    """Return the Gaussian window's mean of v at each position inside the image, S stacked maps at a time."""
    side = min(WINDOW, *v_SBCHW.shape[-2:])
    side -= 1 - side % 2
    offsets = torch.arange(side, device=v_SBCHW.device, dtype=v_SBCHW.dtype) - side // 2
    window = (-(offsets**2) / (2 * WINDOW_STD**2)).exp()
    window = window / window.sum()
    images = v_SBCHW.flatten(0, 2)[:, None]
    smooth = F.conv2d(F.conv2d(images, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return smooth.view(*v_SBCHW.shape[:-2], *smooth.shape[-2:])
