"""The raw target maps that a method trains on, and those that TensorBoard shows.

Shapes: N training images, B previewed ones, C·H·W image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.job import Job
from tune_interpreg import saliency, seeding
from tune_interpreg.data import Dataset


def training_maps(job: Job, data: Dataset) -> dict[int, Tensor]:
    """For each seed the raw maps of all training images, permuted within each map where the targets say so.

    Raises ``ValueError`` where there are none, or where they are not those of ``data``.
    """
    if job.maps is None:
        raise ValueError(f"{job.item.recipe.method} needs target maps, but the arm {job.item.arm} names no targets")
    raw_NCHW = _read(job.maps, data.train.x_NCHW.shape).to(job.device)
    if not _permuted(job):
        return dict.fromkeys(job.item.seeds, raw_NCHW)
    return {
        seed: saliency.permute(raw_NCHW, seeding.generator(seed, "permutation", job.device)) for seed in job.item.seeds
    }


def preview_maps(job: Job) -> Tensor | None:
    """The raw maps_BCHW of the validation images that TensorBoard shows, where a store has them."""
    maps = job.item.recipe.maps
    if not (maps and job.store):
        return None
    raw_BCHW = torch.from_numpy(np.load(job.store.preview_file(maps.key))).to(job.device)
    if not _permuted(job):
        return raw_BCHW
    return saliency.permute(raw_BCHW, seeding.generator(job.item.seeds[0], "preview", job.device))


def _permuted(job: Job) -> bool:
    return job.item.recipe.maps is not None and job.item.recipe.maps.permute


def _read(file: Path, expected: torch.Size) -> Tensor:
    """The maps in ``file``, mapped into memory rather than read."""
    maps = np.load(file, mmap_mode="c")
    if (maps.shape, maps.dtype) != (tuple(expected), np.float32):
        there, here = f"{maps.dtype} of shape {list(maps.shape)}", list(expected)
        raise ValueError(f"{file}: maps are float32, one for each training image: shape {here}; these are {there}")
    return torch.from_numpy(maps)
