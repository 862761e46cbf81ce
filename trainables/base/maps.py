"""The raw target maps that a method trains on, and those that TensorBoard shows.

Shapes: N training images, B previewed ones, C·H·W image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from trainables.base.job import Job
from tune_interpreg import seeding
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.gradients import saliency


def training_maps(job: Job, data: Dataset) -> dict[int, Tensor]:
    """For each seed the raw maps_NCHW of all training images, float16 or float32 as they are stored.

    Where the targets' ``permute`` is ``fixed``, each map is permuted within itself, by the seed; where it is
    ``redrawn``, whoever draws a batch permutes it. On the CPU, maps that are not permuted are the file mapped into
    memory, whose pages all workers of a machine share.

    Raises ``ValueError`` where there are none, where they are not those of ``data``, or where one is not finite.
    """
    if job.maps is None:
        raise ValueError(
            f"{job.item.recipe.method} needs target maps, but the arm {job.item.arm} names no targets; name a teacher"
        )
    raw_NCHW = _read(job.maps, data.train.x_NCHW.shape, _remedy(job)).to(job.device)
    if _permute(job) != "fixed":
        return dict.fromkeys(job.item.seeds, raw_NCHW)
    return {
        seed: saliency.permute(raw_NCHW, seeding.generator(seed, "permutation", job.device)) for seed in job.item.seeds
    }


def preview_maps(job: Job) -> Tensor | None:
    """The raw maps_BCHW, float32, of the validation images that TensorBoard shows, where a store has them.

    They are permuted where the training's are, once.
    """
    maps = job.item.recipe.maps
    if not (maps and job.store):
        return None
    raw_BCHW = load_file(job.store.preview_file(maps.key), device=job.device)["smoothgrad_NCHW"]
    if _permute(job) is None:
        return raw_BCHW
    return saliency.permute(raw_BCHW, seeding.generator(job.item.seeds[0], "preview", job.device))


def _permute(job: Job) -> str | None:
    return job.item.recipe.maps.permute if job.item.recipe.maps else None


def _read(file: Path, expected: torch.Size, remedy: str) -> Tensor:
    """The maps in ``file``, mapped into memory rather than read."""
    try:
        maps = np.lib.format.open_memmap(file, mode="c")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file}: is no .npy file of maps ({error}); {remedy}") from error
    if maps.shape != tuple(expected) or maps.dtype not in (np.float16, np.float32):
        there, here = f"{maps.dtype} of shape {list(maps.shape)}", list(expected)
        raise ValueError(
            f"{file}: maps are float32, or float16, one for each training image: shape {here}; "
            f"these are {there}; {remedy}"
        )
    maps_NCHW = torch.from_numpy(maps)
    if (bad := _not_finite(maps_NCHW)) is not None:
        raise ValueError(f"{file}: values of maps are finite numbers; one of map {bad} is not; {remedy}")
    return maps_NCHW


def _not_finite(maps_NCHW: Tensor) -> int | None:
    # Least and greatest value take one pass and no memory; one of them is not finite where any value is not.
    if torch.isfinite(torch.stack(torch.aminmax(maps_NCHW))).all():
        return None
    return next(n for n, map_CHW in enumerate(maps_NCHW) if not torch.isfinite(map_CHW).all())


def _remedy(job: Job) -> str:
    if job.store is None:
        return "give the maps of these training images, in their order"
    return "remove it and the record of the stage that made it (its role is targets), and `run` makes both anew"
