"""The raw target maps that a method trains on, and those of the images that TensorBoard previews.

Shapes: N training images, B previewed ones, C·H·W image.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from trainables.base.assignment import Assignment
from tune_interpreg import seeding
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.gradients import saliency


def load_training_maps(assignment: Assignment, data: Dataset) -> dict[int, Tensor]:
    """Return for each seed the raw maps_NCHW of all training images, in float16 or float32 as stored.

    With ``permute: fixed`` in the targets, each map is permuted within itself, by the seed. On the CPU, other maps are
    the file mapped into memory, and all workers of a machine share its pages.

    Raises:
        ValueError: there are no maps, they do not fit ``data``, or one is not finite.
    """
    job = assignment.job
    if assignment.maps is None:
        raise ValueError(f"{job.recipe.method} needs target maps, but the arm {job.arm} names no targets; name them")
    remedy = "give the maps of these training images, in their order"
    if assignment.store is not None:
        remedy = "run again: the next start sets a damaged file aside and makes it again"
    raw_NCHW = _read(assignment.maps, data.train.x_NCHW.shape, remedy).to(assignment.device)
    if _permutation(assignment) != "fixed":
        return dict.fromkeys(job.seeds, raw_NCHW)
    return {
        seed: saliency.permute(raw_NCHW, seeding.generator(seed, "permutation", assignment.device))
        for seed in job.seeds
    }


def load_preview_maps(assignment: Assignment) -> Tensor | None:
    """Return the raw maps_BCHW, float32, of the previewed images, permuted like the others; None without a store."""
    job = assignment.job
    if job.recipe.maps is None or assignment.store is None:
        return None
    preview = load_file(assignment.store.preview_file(job.recipe.maps.key), device=assignment.device)
    raw_BCHW = preview["smoothgrad_NCHW"]
    if _permutation(assignment) is None:
        return raw_BCHW
    return saliency.permute(raw_BCHW, seeding.generator(job.seeds[0], "preview", assignment.device))


def _permutation(assignment: Assignment) -> str | None:
    maps = assignment.job.recipe.maps
    return maps.permute if maps else None


def _read(file: Path, expected: torch.Size, remedy: str) -> Tensor:
    """Return the maps in ``file``, mapped into memory."""
    try:
        maps = np.lib.format.open_memmap(file, mode="c")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file}: is not an .npy file of maps ({error}); {remedy}") from error
    if maps.shape != tuple(expected) or maps.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"{file}: takes one map for each training image, in float32 or float16 and of shape {list(expected)}, "
            f"got {maps.dtype} of shape {list(maps.shape)}; {remedy}"
        )
    maps_NCHW = torch.from_numpy(maps)
    # Minimum and maximum take one pass and no memory; one of them is not finite if any value is not.
    if not torch.isfinite(torch.stack(torch.aminmax(maps_NCHW))).all():
        index = next(n for n, map_CHW in enumerate(maps_NCHW) if not torch.isfinite(map_CHW).all())
        raise ValueError(f"{file}: takes finite numbers, but map {index} has another value; {remedy}")
    return maps_NCHW
