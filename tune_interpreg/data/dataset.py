"""Images in memory, in fixed splits, of any registered data set.

Legend: N images, C·H·W one image, K classes. Images are uint8 (0..255) or float32 (pixels in [0, 1]); ``to_pixels``
converts both to float32. No split or subset depends on a study's seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tune_interpreg import registry, seeding
from tune_interpreg.study import config


class DataError(ValueError):
    """Data that is missing, damaged, or smaller than a study asks for; ``key`` names the faulty key of ``data``."""

    def __init__(self, message: str, key: str | None = None):
        super().__init__(f"data.{key}: {message}" if key else message)
        self.message, self.key = message, key


@dataclass(frozen=True, eq=False)
class Split:
    """Images x_NCHW, uint8 0..255 or float32 in [0, 1], and their labels y_N, int64 in 0..K−1."""

    x_NCHW: Tensor
    y_N: Tensor

    def __len__(self) -> int:
        return len(self.y_N)

    def at(self, rows: Tensor | slice) -> Split:
        return Split(self.x_NCHW[rows], self.y_N[rows])

    def subset(self, size: int | None, purpose: str) -> Split:
        """Return ``size`` images, stratified (see ``split_stratified``); all if ``size`` is None or too large."""
        if size is None or size >= len(self):
            return self
        return self.at(split_stratified(self.y_N.cpu(), size, purpose)[0].to(self.y_N.device))

    def to(self, device: torch.device | str) -> Split:
        return Split(self.x_NCHW.to(device), self.y_N.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images for training and selection. ``shape`` is (C, H, W)."""

    train: Split
    validation: Split
    classes: int
    shape: tuple[int, int, int]
    fingerprint: str


@dataclass(frozen=True)
class Source:
    """The result of a registered data set's function, ``(root: Path | None, **options) -> Source``.

    classes: K. shape: (C, H, W). validation: default number of images held out of ``train()``. train, test: read the
    images; only the final evaluation calls ``test``. tests: number of test images, if known without reading them.
    """

    classes: int
    shape: tuple[int, int, int]
    validation: int
    train: Callable[[], Split]
    test: Callable[[], Split]
    tests: int | None = None


def to_pixels(x: Tensor) -> Tensor:
    """Return x as float32 in [0, 1]: uint8 is divided by 255, floating point keeps its values."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x.to(torch.float32)


def load_dataset(data: config.Data) -> Dataset:
    """Read the training images and split them. Does not read the test images.

    The validation images, then ``data.train_limit`` of the rest, are stratified subsets (see ``split_stratified``).
    ``fingerprint`` is the first 16 hex digits of SHA-256 over both splits, the data set's name and ``test_limit``.
    Raises ``DataError``: missing or damaged files, images or labels out of range, limits that are too large.
    """
    source = _open_source(data)
    if source.tests is not None:
        _check_test_limit(data, source.tests)
    pool = _check_split(source.train(), source, f"data {data.name}, training images")
    images, held_out = len(pool), source.validation if data.validation is None else data.validation
    _check_limit("validation", held_out, images - 1, f"must be less than the {images:,} training images")
    rest = f"{images - held_out:,} images are left of {images:,} after {held_out:,} for validation"
    _check_limit("train_limit", data.train_limit, images - held_out, rest)
    validation_M, rest_M = split_stratified(pool.y_N, held_out, "validation")
    if data.train_limit is not None:
        rest_M = rest_M[split_stratified(pool.y_N[rest_M], data.train_limit, "train_limit")[0]]
    train, validation = pool.at(rest_M), pool.at(validation_M)
    return Dataset(train, validation, source.classes, source.shape, _fingerprint(train, validation, data))


def load_test(data: config.Data) -> Split:
    """Read the test images, or a stratified subset of ``data.test_limit``. For the final evaluation only."""
    source = _open_source(data)
    test = _check_split(source.test(), source, f"data {data.name}, test images")
    _check_test_limit(data, len(test))
    return test.subset(data.test_limit, "test_limit")


def count_test_images(data: config.Data) -> int | None:
    """Return the number of images in the final evaluation; None if only reading them would tell it."""
    return data.test_limit or _open_source(data).tests


def split_stratified(y_N: Tensor, size: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Choose ``size`` of N images with |chosen of class k − size·N_k/N| < 1. Return (chosen, rest) in ascending order.

    The choice depends only on (y, size, purpose). A smaller choice is part of every larger one.
    """
    # NumPy keeps the raw stream of a bit generator the same in every version, but not that of a permutation.
    key_N = np.random.PCG64(seeding.number(0, "data", purpose)).random_raw(len(y_N))
    y = y_N.numpy()
    chosen_N = np.zeros(len(y), dtype=bool)
    for label, count in enumerate(apportion(np.bincount(y).tolist(), size)):
        rows = np.flatnonzero(y == label)
        chosen_N[rows[np.argsort(key_N[rows], kind="stable")[:count]]] = True
    return torch.from_numpy(np.flatnonzero(chosen_N)), torch.from_numpy(np.flatnonzero(~chosen_N))


def apportion(sizes: Sequence[int], total: int) -> list[int]:
    """Divide ``total`` among classes: counts c_k with |c_k − total·N_k/N| < 1 that never fall as total grows.

    Tijdeman's chairman assignment (1980), with p_k = N_k/N and δ = 1/(2K − 2): step n picks among the classes with
    n·p_k − c_k ≥ δ the one with the least (c_k + 1 − δ)/p_k. Rounding would break one of the two promises.
    """
    images, turns, counts = sum(sizes), max(1, 2 * len(sizes) - 2), [0] * len(sizes)
    for step in range(1, total + 1):
        due = [k for k, size in enumerate(sizes) if size and (step * size - counts[k] * images) * turns >= images]
        counts[min(due, key=lambda k: ((counts[k] + 1) * turns - 1) / sizes[k])] += 1
    return counts


def _open_source(data: config.Data) -> Source:
    root = None if data.root is None else Path(data.root)
    if root is not None and not root.is_dir():
        raise DataError(f"must be an existing folder, got {root}; correct --data-root or drop it", "root")
    source: Source = registry.resolve("datasets", data.name)(root, **data.options)
    return source


def _check_split(split: Split, source: Source, place: str) -> Split:
    """Return ``split``; raise ``DataError`` with all of its problems."""
    x_NCHW, y_N, problems = split.x_NCHW, split.y_N, []
    if x_NCHW.shape[:1] != y_N.shape or not len(y_N):
        problems.append(f"each image has one label, got shapes {tuple(x_NCHW.shape)} and {tuple(y_N.shape)}")
    if tuple(x_NCHW.shape[1:]) != source.shape:
        problems.append(f"images are {source.shape}, got {tuple(x_NCHW.shape[1:])}")
    if x_NCHW.dtype not in (torch.uint8, torch.float32):
        problems.append(f"images are uint8 or float32, got {x_NCHW.dtype}")
    elif x_NCHW.is_floating_point() and not ((x_NCHW >= 0) & (x_NCHW <= 1)).all():
        problems.append(f"pixels lie in [0, 1], got [{x_NCHW.min():g}, {x_NCHW.max():g}]")
    if y_N.dtype != torch.int64:
        problems.append(f"labels are int64, got {y_N.dtype}")
    elif not ((y_N >= 0) & (y_N < source.classes)).all():
        problems.append(f"labels lie in 0..{source.classes - 1}, got {y_N.min()}..{y_N.max()}")
    if problems:
        raise DataError(f"{place}: {'; '.join(problems)}; correct the files or the data set's function")
    return split


def _check_test_limit(data: config.Data, images: int) -> None:
    _check_limit("test_limit", data.test_limit, images, f"there are {images:,} test images")


def _check_limit(key: str, limit: int | None, largest: int, rule: str) -> None:
    if limit is not None and limit > largest:
        raise DataError(f"{rule}, got {limit:,}; lower it or drop it", key)


def _fingerprint(train: Split, validation: Split, data: config.Data) -> str:
    digest = hashlib.sha256(json.dumps([data.name, data.test_limit]).encode())
    for tensor in (train.x_NCHW, train.y_N, validation.x_NCHW, validation.y_N):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]
