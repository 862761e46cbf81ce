"""AutoAttack by pyautoattack: an ensemble of four attacks without step sizes to choose (Croce and Hein, 2020).

Shapes: N images of a split, C·H·W image, K classes. The library is an optional extra and is imported on use. It seeds
the process's global generators; their state is restored in any case.
"""

import importlib.util
import logging
import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.config import Attack

#: Largest number of target classes of APGD-T and FAB-T, as in the standard ensemble for ten classes.
TARGETS = 9


class AutoAttackError(RuntimeError):
    """AutoAttack cannot run: its package is missing, or its attacks do not take such images."""


def is_installed() -> bool:
    """Return whether the extra ``autoattack`` is installed; imports nothing."""
    return importlib.util.find_spec("pyautoattack") is not None


def find_problem(attack: Attack, shape: tuple[int, int, int]) -> str | None:
    """Return why AutoAttack cannot attack images of this shape (C, H, W) under the attack's norm; None if it can."""
    if not is_installed():
        return 'needs the package pyautoattack; pip install "tune-interpreg[autoattack]" or drop the key'
    _, height, width = shape
    if attack.norm == "l2" and not _grid_fits(height, width):
        return (
            "under l2, AutoAttack's Square attack needs images of at least 5 pixels that contain its grid of windows "
            f"(each a fifth of the height), got {height}×{width}; attack under linf or drop the key"
        )
    return None


def measure_adversarial_accuracy(
    model: nn.Module, split: Split, *, attack: Attack, seed: int, batch_size: int, effort: float = 1.0
) -> float:
    """Return the fraction of the images, on the model's device, that the ensemble does not break; see `perturb`."""
    x_NCHW = to_pixels(split.x_NCHW)
    _, broken_N = perturb(model, x_NCHW, split.y_N, attack=attack, seed=seed, batch_size=batch_size, effort=effort)
    return 1.0 - int(broken_N.sum()) / len(split)


def perturb(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    *,
    attack: Attack,
    seed: int,
    batch_size: int,
    effort: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the worst result of APGD-CE, APGD-T, FAB-T and Square; each attacks what the previous ones did not break.

    The model runs in eval mode. Its modes, ``requires_grad`` and the global generators are restored. The library's
    starts depend on an image's place in its batch, so with more than one batch the result may depend on the batch size.

    Args:
        x_NCHW: images, pixels in [0, 1].
        y_N: labels, integers in [0, K).
        attack: norm and eps. The ensemble has its own steps, step sizes and starts.
        seed: only source of randomness.
        batch_size: images per forward.
        effort: part of each attack's iterations that is run; less than 1 only to measure what the whole takes.

    Returns:
        x_NCHW, adversarial if an attack succeeded and unchanged otherwise; and bool_N, the misclassified ones.

    Raises:
        AutoAttackError: see `find_problem`.
    """
    problem = find_problem(attack, (x_NCHW.shape[1], x_NCHW.shape[2], x_NCHW.shape[3]))
    if problem:
        raise AutoAttackError(f"AutoAttack: {problem}")
    with _restore_state(model), eval_mode(model):
        ensemble = _make_ensemble(model, x_NCHW, attack, seeding.number(seed, "evaluation-autoattack"))
        for part in (ensemble.apgd, ensemble.apgd_targeted, ensemble.fab):
            part.n_iter = math.ceil(effort * part.n_iter)
        ensemble.square.n_queries = math.ceil(effort * ensemble.square.n_queries)
        x_adv_NCHW, prediction_N = ensemble.run_standard_evaluation(x_NCHW, y_N, batch_size=batch_size)
    return x_adv_NCHW, prediction_N != y_N


def _make_ensemble(model: nn.Module, x_NCHW: Tensor, attack: Attack, seed: int) -> Any:
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = model(x_NCHW[:1]).shape[-1]
    ensemble = AutoAttack(model, norm=attack.norm.capitalize(), eps=attack.eps, seed=seed, device=x_NCHW.device)
    ensemble.verbose = False
    ensemble.attacks_to_run = list_attacks(classes)
    ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(TARGETS, classes - 1)
    return ensemble


def list_attacks(classes: int) -> list[str]:
    """Return the ensemble's attacks for K ≥ 2 classes, in pyautoattack's names; the standard ones for K ≥ 4.

    The targeted DLR loss of APGD-T needs four logits. With three classes the untargeted DLR loss, which needs three,
    replaces it; with two classes there is none.
    """
    dlr: list[str] = {2: [], 3: ["apgd-dlr"]}.get(classes, ["apgd-t"])
    return ["apgd-ce", *dlr, "fab-t", "square"]


def _grid_fits(height: int, width: int) -> bool:
    """Return whether the first grid of the l2 Square attack, of windows of side ⌊H/5⌋, lies within the image."""
    window = height // 5
    inset = (height - 5 * window) // 2
    return window == 1 or (window > 1 and all(inset + side // window * window <= side for side in (height, width)))


@contextmanager
def _restore_state(model: nn.Module) -> Iterator[None]:
    """Silence the library's logger and compute no gradients of the parameters in this block.

    Restore both afterwards, and what the library changes: global generators and the trace function.
    """
    logger = logging.getLogger("auto-attack")
    state, numpy_state, trace, disabled = random.getstate(), np.random.get_state(), sys.gettrace(), logger.disabled
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logger.disabled = True
    model.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=range(torch.accelerator.device_count())):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        sys.settrace(trace)
        logger.disabled = disabled
        for parameter in trained:
            parameter.requires_grad_(True)
