"""The measures of a trained model: clean and adversarial accuracy, and the norms of its gradients.

Shapes: B batch, N ≥ 1 images of a split, C·H·W image, K classes. Unless stated otherwise, a measure runs the model in
eval mode, then restores its modes. It expects the split on the model's device. ``batch_size`` is images per forward.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import balls, judging
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.config import Attack

#: Attack starts are drawn in blocks of this many images, so that they do not depend on the batch size.
IMAGES_PER_BLOCK = 256


@torch.no_grad()
def measure_accuracy(model: nn.Module, split: Split, batch_size: int) -> float:
    """Return the fraction of images with argmax f(x) = y, in [0, 1]."""
    with eval_mode(model):
        correct = [(model(x_BCHW).argmax(-1) == y_B).sum() for x_BCHW, y_B in _batches(split, batch_size)]
    return int(torch.stack(correct).sum()) / len(split)


def measure_adversarial_accuracy(model: nn.Module, split: Split, **settings: Any) -> float:
    """Return the fraction of images that no start of the attack breaks, in [0, 1]. See `find_broken_images`."""
    return 1.0 - int(find_broken_images(model, split, **settings).sum()) / len(split)


def find_broken_images(
    model: nn.Module, split: Split, *, attack: Attack, form: judging.Form, seed: int, batch_size: int, restarts: int = 1
) -> Tensor:
    """Return which images the attack breaks from at least one of its starts, as bool_N.

    An image's starts depend on the seed and its position in the split, not on the batch size. "strict" results are
    thus independent of the batch size; the "compat" attack itself depends on it (see `pgd`). More restarts keep the
    earlier starts, so they never raise the accuracy.

    Args:
        form: as in `judging.find_broken`. seed: of the starts. restarts: starts per image, ≥ 1.
    """
    noises = zip(*(_noise(split, batch_size, attack, seed, restart) for restart in range(restarts)), strict=True)
    place, broken_N = balls.choose_start(attack).place, []
    with eval_mode(model):
        for (x_BCHW, y_B), batch_noises in zip(_batches(split, batch_size), noises, strict=True):
            starts = (place(x_BCHW, noise, attack) for noise in batch_noises)
            broken_N.append(judging.find_broken(model, x_BCHW, y_B, starts, attack=attack, form=form))
    return torch.cat(broken_N)


@torch.no_grad()
def measure_gradient_norms(model: nn.Module, split: Split, batch_size: int) -> dict[str, float]:
    """Return the mean gradient norms of Table 3, in logits per pixel, for K ≥ 2 classes.

    label: mean over images of ‖J_c‖₂. other: mean over images and k ≠ c of ‖J_k‖₂.
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
    """Return ‖J_k(x)‖₂ for every class k, as norms_BK in logits per pixel. The model keeps its mode."""
    z_BK, adjoint = linearize(model, x_BCHW)
    onehots_KK = torch.eye(z_BK.shape[-1], dtype=z_BK.dtype, device=z_BK.device)
    # One class at a time: the gradients of all classes at every layer would take most of a worker's memory.
    norms = [torch.linalg.vector_norm(adjoint(e_K.expand_as(z_BK)), dim=(-3, -2, -1)) for e_K in onehots_KK]
    return torch.stack(norms, -1)


def _batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for x_BCHW, y_B in zip(split.x_NCHW.split(batch_size), split.y_N.split(batch_size), strict=True):
        yield to_pixels(x_BCHW), y_B


def _noise(split: Split, batch_size: int, attack: Attack, seed: int, restart: int) -> Iterator[Tensor]:
    """Yield the noise of one start per image, in batches. Image n gets the same noise for every batch size."""
    shape, device = split.x_NCHW.shape[1:], split.x_NCHW.device
    generator = seeding.generator(seed, f"evaluation-attack/{restart}" if restart else "evaluation-attack", device)
    draw = balls.choose_start(attack).draw
    pool = draw(torch.Size((0, *shape)), generator, device)
    for x_BCHW in split.x_NCHW.split(batch_size):
        images = len(x_BCHW)
        while len(pool) < images:
            pool = torch.cat([pool, draw(torch.Size((IMAGES_PER_BLOCK, *shape)), generator, device)])
        yield pool[:images]
        pool = pool[images:]
