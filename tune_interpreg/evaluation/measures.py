"""What a trained model is measured by: clean and adversarial accuracy, and the norms of its gradients.

Shapes: B batch, N images of a split, C·H·W image, K classes. Every measure runs in eval mode, leaves the
model's modes as they were, and expects the split on the model's device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.networks.piecewise_linear import linearize
from tune_interpreg.study.config import Attack

# The starts are drawn in blocks of this many images, so that they do not depend on the batch size.
IMAGES_PER_BLOCK = 256


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def measure_accuracy(model: nn.Module, split: Split, batch_size: int) -> float:
    """The share of images with argmax f(x) = y.

    Args:
        split: N ≥ 1 images. batch_size: images in one forward.
    Returns: a fraction in [0, 1].
    """
    with eval_mode(model):
        right = [(model(x_BCHW).argmax(-1) == y_B).sum() for x_BCHW, y_B in _batches(split, batch_size)]
    return int(torch.stack(right).sum()) / len(split)


def measure_adversarial_accuracy(
    model: nn.Module,
    split: Split,
    *,
    attack: Attack,
    form: attacks.Form,
    seed: int,
    batch_size: int,
    restarts: int = 1,
) -> float:
    """The share of images that PGD breaks from none of its starts.

    Args: as in `find_broken`.
    Returns: a fraction in [0, 1].
    """
    broken_N = find_broken(model, split, attack=attack, form=form, seed=seed, batch_size=batch_size, restarts=restarts)
    return 1.0 - int(broken_N.sum()) / len(split)


def find_broken(
    model: nn.Module,
    split: Split,
    *,
    attack: Attack,
    form: attacks.Form,
    seed: int,
    batch_size: int,
    restarts: int = 1,
) -> Tensor:
    """Which images PGD breaks from at least one of its starts.

    An image's starts depend on the seed and its place in the split, not on the batch size; the whole result
    is then independent of it for "strict", while for "compat" the attack itself is not (see `attacks`).
    The first starts are the same however many there are, so that one more never raises the accuracy.

    Args:
        split: N ≥ 1 images.
        attack: norm, eps and step (pixels in [0, 1]), steps, direction, start. form: as in `attacks.broken_from`.
        seed: of the starts. batch_size: images in one forward. restarts: starts of each image, ≥ 1.
    Returns: bool_N.
    """
    noises = zip(*(_noise(split, batch_size, attack, seed, restart) for restart in range(restarts)), strict=True)
    place, broken_N = balls.start_of(attack).place, []
    with eval_mode(model):
        for (x_BCHW, y_B), batch_noises in zip(_batches(split, batch_size), noises, strict=True):
            starts = (place(x_BCHW, noise, attack) for noise in batch_noises)
            broken_N.append(attacks.broken_by_any(model, x_BCHW, y_B, starts, attack=attack, form=form))
    return torch.cat(broken_N)


@torch.no_grad()
def measure_gradient_norms(model: nn.Module, split: Split, batch_size: int) -> dict[str, float]:
    """The mean gradient norms of Table 3, of the logits.

    label: mean over images of ‖J_c‖₂. other: mean over images and k ≠ c of ‖J_k‖₂.

    Args:
        split: N ≥ 1 images, K ≥ 2 classes. batch_size: images in one forward.
    Returns: {"label": …, "other": …}, logits per pixel.
    """
    totals = []
    with eval_mode(model):
        for x_BCHW, y_B in _batches(split, batch_size):
            norms_BK = compute_jacobian_norms(model, x_BCHW).double()
            label_B = norms_BK.gather(1, y_B.unsqueeze(1)).squeeze(1)
            other_B = (norms_BK.sum(1) - label_B) / (norms_BK.shape[1] - 1)
            totals.append(torch.stack([label_B.sum(), other_B.sum()]))
    label, other = (torch.stack(totals).sum(0) / len(split)).tolist()
    return {"label": label, "other": other}


@torch.no_grad()
def compute_jacobian_norms(model: nn.Module, x_BCHW: Tensor) -> Tensor:
    """‖J_k(x)‖₂ for every class k.

    Args: x_BCHW: images, pixels in [0, 1].
    Returns: norms_BK, logits per pixel, without graph. The model runs in the mode it is in.
    """
    z_BK, adjoint = linearize(model, x_BCHW)
    onehots_KK = torch.eye(z_BK.shape[-1], dtype=z_BK.dtype, device=z_BK.device)
    # Class by class: the gradients of all, at a batch's every layer, would be most of a worker's memory.
    norms = [torch.linalg.vector_norm(adjoint(e_K.expand_as(z_BK)), dim=(-3, -2, -1)) for e_K in onehots_KK]
    return torch.stack(norms, -1)


def _batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for x_BCHW, y_B in zip(split.x_NCHW.split(batch_size), split.y_N.split(batch_size), strict=True):
        yield to_pixels(x_BCHW), y_B


def _noise(split: Split, batch_size: int, attack: Attack, seed: int, restart: int) -> Iterator[Tensor]:
    """The noise of one start of each image, batch by batch; image n gets the same whatever the batch size."""
    shape, device = split.x_NCHW.shape[1:], split.x_NCHW.device
    generator = seeding.generator(seed, f"evaluation-attack/{restart}" if restart else "evaluation-attack", device)
    draw = balls.start_of(attack).draw
    pool = draw(torch.Size((0, *shape)), generator, device)
    for first in range(0, len(split), batch_size):
        images = min(batch_size, len(split) - first)
        while len(pool) < images:
            pool = torch.cat([pool, draw(torch.Size((IMAGES_PER_BLOCK, *shape)), generator, device)])
        yield pool[:images]
        pool = pool[images:]
