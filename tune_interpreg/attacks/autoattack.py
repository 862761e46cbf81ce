"""AutoAttack, an ensemble of four attacks without step sizes to choose (Croce and Hein, 2020), by pyautoattack.

Shapes: N images of a split, C·H·W image, K classes. The library is an optional extra, imported where it is used; it
seeds the process's global generators, which are put back whatever happens.
"""

import importlib.util
import logging
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

NORMS = {"l2": "L2", "linf": "Linf"}

#: Most target classes of APGD-T and FAB-T: those of the standard ensemble, which was made for ten classes.
TARGETS = 9


class AutoAttackError(RuntimeError):
    """AutoAttack cannot run: its package is missing, or its attacks do not take such images."""


def available() -> bool:
    """Whether the extra ``autoattack`` is installed; nothing is imported."""
    return importlib.util.find_spec("pyautoattack") is not None


def problem(attack: Attack, shape: tuple[int, int, int]) -> str | None:
    """Why AutoAttack cannot attack images of this shape (C, H, W) under the attack's norm; None where it can.

    Under l2 the Square attack begins with a grid of windows of side ⌊H/5⌋, which the image's edge must not cut.
    """
    if not available():
        return 'needs the package pyautoattack; pip install "tune-interpreg[autoattack]" or drop the key'
    _, height, width = shape
    if attack.norm == "l2" and not _grid_fits(height, width):
        return (
            "under l2, AutoAttack's Square attack takes images of at least 5 pixels into which its grid of windows, "
            f"each a fifth of the height, fits uncut, got {height}×{width}; attack under linf or drop the key"
        )
    return None


def adversarial_accuracy(model: nn.Module, split: Split, *, attack: Attack, seed: int, batch_size: int) -> float:
    """The share of images that the ensemble does not break.

    Args: split: N ≥ 1 images, on the model's device. attack, seed, batch_size: as in `perturb`.
    Returns: a fraction in [0, 1].
    Raises: AutoAttackError: as `perturb`.
    """
    _, broken_N = perturb(model, to_pixels(split.x_NCHW), split.y_N, attack=attack, seed=seed, batch_size=batch_size)
    return 1.0 - int(broken_N.sum()) / len(split)


def perturb(
    model: nn.Module, x_NCHW: Tensor, y_N: Tensor, *, attack: Attack, seed: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """The worst of APGD-CE, APGD-T, FAB-T and Square, each attacking what those before it did not break.

    The model runs in eval mode; afterwards its modules' modes and its parameters' ``requires_grad`` and ``grad``
    are those of before, as are the global generators. The library's starts depend on an image's place in its
    batch, so that the result may depend on the batch size where there are more images than one batch holds.

    Args:
        x_NCHW: images, pixels in [0, 1]. y_N: labels.
        attack: norm and eps (radius, pixels in [0, 1]); the ensemble has its own steps, step sizes and starts.
        seed: the only source of randomness. batch_size: images in one forward.
    Returns: x_NCHW, adversarial where an attack succeeded, else as given, and bool_N: which are misclassified.
    Raises: AutoAttackError: as `problem` says.
    """
    if (why := problem(attack, (x_NCHW.shape[1], x_NCHW.shape[2], x_NCHW.shape[3]))) is not None:
        raise AutoAttackError(f"evaluation.autoattack: {why}")
    with _fenced(), eval_mode(model), _frozen(model):
        ensemble = _ensemble(model, x_NCHW, attack, seeding.number(seed, "evaluation-autoattack"))
        x_adv_NCHW, prediction_N = ensemble.run_standard_evaluation(x_NCHW, y_N, batch_size=batch_size)
    return x_adv_NCHW, prediction_N != y_N


def _ensemble(model: nn.Module, x_NCHW: Tensor, attack: Attack, seed: int) -> Any:
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = model(x_NCHW[:1]).shape[-1]
    ensemble = AutoAttack(model, norm=NORMS[attack.norm], eps=attack.eps, seed=seed, device=x_NCHW.device)
    ensemble.verbose = False
    ensemble.attacks_to_run = members(classes)
    ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(TARGETS, classes - 1)
    return ensemble


def members(classes: int) -> list[str]:
    """The ensemble's attacks for K ≥ 2 classes, in pyautoattack's names; with four or more the standard ones.

    The targeted DLR loss of APGD-T divides by a difference of the largest four logits. With three, APGD on the
    untargeted one, of three logits, stands for it; with two there is none.
    """
    dlr: list[str] = {2: [], 3: ["apgd-dlr"]}.get(classes, ["apgd-t"])
    return ["apgd-ce", *dlr, "fab-t", "square"]


def _grid_fits(height: int, width: int) -> bool:
    """Whether no window of the l2 Square attack's first grid is cut: a window of one pixel cannot be."""
    window = height // 5
    inset = (height - 5 * window) // 2
    return window == 1 or (window > 1 and all(inset + side // window * window <= side for side in (height, width)))


@contextmanager
def _fenced() -> Iterator[None]:
    """Global state that the library changes is put back: generators, the trace function, the logger's silence.

    It logs warnings to a logger that, with no handler, would print them.
    """
    logger = logging.getLogger("auto-attack")
    state, numpy_state, trace, disabled = random.getstate(), np.random.get_state(), sys.gettrace(), logger.disabled
    logger.disabled = True
    try:
        with torch.random.fork_rng(devices=range(torch.accelerator.device_count())):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        sys.settrace(trace)
        logger.disabled = disabled


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient, so that none is accumulated; afterwards those that did do again."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
