"""Images in memory, in fixed splits, of any registered data set.

Legend: N images, C·H·W one image, K classes. Images are uint8 (0..255) or float32 (pixels in [0, 1]); ``to_pixels`` makes
float32 of either. No split or subset depends on a study's seeds.
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
    """Data that is missing, damaged, or fewer than a study asks for; ``key`` of ``data`` is to blame, where one is."""

    def __init__(self, message: str, key: str | None = None):
        super().__init__(f"data.{key}: {message}" if key else message)
        self.message, self.key = message, key


@dataclass(frozen=True, eq=False)
class Split:
    """x_NCHW: uint8 0..255 or float32 in [0, 1]; y_N: int64 in 0..K−1."""

    x_NCHW: Tensor
    y_N: Tensor

    def __len__(self) -> int:
        return len(self.y_N)

    def at(self, rows: Tensor | slice) -> Split:
        """The images at these rows, in this order."""
        return Split(self.x_NCHW[rows], self.y_N[rows])

    def subset(self, size: int | None, purpose: str) -> Split:
        """So many of the images, of each class its share (see ``split_stratified``); all where it is None or beyond them."""
        if size is None or size >= len(self):
            return self
        return self.at(split_stratified(self.y_N.cpu(), size, purpose)[0].to(self.y_N.device))

    def to(self, device: torch.device | str) -> Split:
        """The same images on ``device``."""
        return Split(self.x_NCHW.to(device), self.y_N.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """What training and selection may see. ``shape`` is (C, H, W)."""

    train: Split
    validation: Split
    classes: int
    shape: tuple[int, int, int]
    fingerprint: str


@dataclass(frozen=True)
class Source:
    """What a registered data set gives: ``(root: Path | None) -> Source``.

    classes: K. shape: (C, H, W). validation: images held out of ``train()`` unless a study says otherwise.
    train, test: read the images when called; ``test`` is called by the final evaluation only.
    tests: how many ``test`` has, where that is known without reading them.
    """

    classes: int
    shape: tuple[int, int, int]
    validation: int
    train: Callable[[], Split]
    test: Callable[[], Split]
    tests: int | None = None


def to_pixels(x: Tensor) -> Tensor:
    """Return x as float32 in [0, 1]: uint8 is divided by 255, floating point is left as it is."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x.to(torch.float32)


def load_dataset(data: config.Data) -> Dataset:
    """Read the training images and split them; the test images are not read where they are files of their own.

    The validation images, then ``data.train_limit`` of the rest, are stratified subsets (see ``split_stratified``).
    ``fingerprint`` is the first 16 hex digits of SHA-256 over both splits and the definition of all of them.
    Raises ``DataError``: missing or damaged files, images or labels out of range, limits above what there is.
    """
    source = _source(data)
    _check_test_limit(data, source.tests)
    pool = _checked(source.train(), source, f"data {data.name}, training images")
    held = source.validation if data.validation is None else data.validation
    _check_limits(data, len(pool), held)
    validation_M, rest_M = split_stratified(pool.y_N, held, "validation")
    if data.train_limit is not None:
        rest_M = rest_M[split_stratified(pool.y_N[rest_M], data.train_limit, "train_limit")[0]]
    train, validation = pool.at(rest_M), pool.at(validation_M)
    return Dataset(train, validation, source.classes, source.shape, _fingerprint(train, validation, data))


def load_test(data: config.Data) -> Split:
    """Read the test images, or ``data.test_limit`` of them, stratified; for the final evaluation only.

    Raises ``DataError`` as ``load_dataset`` does.
    """
    source = _source(data)
    test = _checked(source.test(), source, f"data {data.name}, test images")
    _check_test_limit(data, len(test))
    return test.subset(data.test_limit, "test_limit")


def count_test_images(data: config.Data) -> int | None:
    """How many images the final evaluation is made on; None where that is not known without reading them."""
    return data.test_limit or _source(data).tests


def split_stratified(y_N: Tensor, size: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Choose ``size`` of N images, |chosen of class k − size·N_k/N| < 1, and return (chosen, rest) as ascending rows.

    The choice depends on (y, size, purpose) alone, and a smaller one lies within every larger one.
    """
    # A bit generator's raw stream is the same in every NumPy version; that of a permutation is not promised.
    key_N = np.random.PCG64(seeding.number(0, "data", purpose)).random_raw(len(y_N))
    y = y_N.numpy()
    chosen_N = np.zeros(len(y), dtype=bool)
    for label, count in enumerate(apportion(np.bincount(y).tolist(), size)):
        rows = np.flatnonzero(y == label)
        chosen_N[rows[np.argsort(key_N[rows], kind="stable")[:count]]] = True
    return torch.from_numpy(np.flatnonzero(chosen_N)), torch.from_numpy(np.flatnonzero(~chosen_N))


def apportion(sizes: Sequence[int], total: int) -> list[int]:
    """Share ``total`` among classes: counts c_k with |c_k − total·N_k/N| < 1, none of which falls as total grows.

    Tijdeman's chairman assignment (1980): step n goes, of the classes with n·p_k − c_k ≥ δ, to the one whose turn
    ends first, at (c_k + 1 − δ)/p_k, where p_k = N_k/N and δ = 1/(2K − 2). Plain rounding keeps only one of the two
    promises when classes are uneven.
    """
    images, turns, counts = sum(sizes), max(1, 2 * len(sizes) - 2), [0] * len(sizes)
    for step in range(1, total + 1):
        due = [k for k, size in enumerate(sizes) if size and (step * size - counts[k] * images) * turns >= images]
        counts[min(due, key=lambda k: ((counts[k] + 1) * turns - 1) / sizes[k])] += 1
    return counts


def _source(data: config.Data) -> Source:
    root = None if data.root is None else Path(data.root)
    if root is not None and not root.is_dir():
        raise DataError(f"must be an existing folder, got {root}; mend --data-root or drop it", "root")
    source: Source = registry.resolve("datasets", data.name)(root, **data.options)
    return source


def _checked(split: Split, source: Source, place: str) -> Split:
    problems = _problems(split, source)
    if problems:
        raise DataError(f"{place}: {'; '.join(problems)}; mend the files or the data set's function")
    return split


def _problems(split: Split, source: Source) -> list[str]:
    x_NCHW, y_N, found = split.x_NCHW, split.y_N, []
    if x_NCHW.shape[:1] != y_N.shape or not len(y_N):
        found.append(f"each image has one label, got shapes {tuple(x_NCHW.shape)} and {tuple(y_N.shape)}")
    if tuple(x_NCHW.shape[1:]) != source.shape:
        found.append(f"images are {source.shape}, got {tuple(x_NCHW.shape[1:])}")
    if x_NCHW.dtype not in (torch.uint8, torch.float32):
        found.append(f"images are uint8 or float32, got {x_NCHW.dtype}")
    elif x_NCHW.is_floating_point() and not ((x_NCHW >= 0) & (x_NCHW <= 1)).all():
        found.append(f"pixels lie in [0, 1], got [{x_NCHW.min():g}, {x_NCHW.max():g}]")
    if y_N.dtype != torch.int64:
        found.append(f"labels are int64, got {y_N.dtype}")
    elif not ((y_N >= 0) & (y_N < source.classes)).all():
        found.append(f"labels lie in 0..{source.classes - 1}, got {y_N.min()}..{y_N.max()}")
    return found


def _check_test_limit(data: config.Data, images: int | None) -> None:
    if data.test_limit is not None and images is not None and data.test_limit > images:
        raise DataError(f"there are {images:,} test images, got {data.test_limit:,}; lower it or drop it", "test_limit")


def _check_limits(data: config.Data, images: int, held: int) -> None:
    left = images - held
    if left < 1:
        raise DataError(
            f"must leave some of the {images:,} training images, got {held:,}; lower it or drop it", "validation"
        )
    if data.train_limit is not None and data.train_limit > left:
        raise DataError(
            f"{left:,} images are left of {images:,} after {held:,} for validation, "
            f"got {data.train_limit:,}; lower it or drop it",
            "train_limit",
        )


def _fingerprint(train: Split, validation: Split, data: config.Data) -> str:
    digest = hashlib.sha256(json.dumps([data.name, data.test_limit]).encode())
    for tensor in (train.x_NCHW, train.y_N, validation.x_NCHW, validation.y_N):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]
