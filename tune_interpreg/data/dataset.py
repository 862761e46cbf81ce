"""Images in memory, in fixed splits, of any registered data set.

Legend: N images, C·H·W one image, K classes. Images are uint8 (0..255) or float32 (pixels in [0, 1]); ``to_pixels``
converts both to float32. No split or subset depends on a study's seeds.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tune_interpreg import registry, seeding
from tune_interpreg.store.files import is_utf8
from tune_interpreg.study import config
from tune_interpreg.study.problems import OURS, describe_exception

Result = TypeVar("Result")


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
    """The images for training and selection.

    shape: (C, H, W). description: as in ``Source``. tests: number of images in the final evaluation, if it is counted.
    """

    train: Split
    validation: Split
    classes: int
    shape: tuple[int, int, int]
    fingerprint: str
    description: str = ""
    tests: int | None = None

    def with_rows(self, rows_M: Tensor) -> Dataset:
        """Return the data set with only these rows of the training images."""
        return replace(self, train=self.train.at(rows_M.to(self.train.y_N.device)))

    def choose_rows(self, limit: int) -> Tensor:
        """Return the rows of a stratified subset of ``limit`` training images, in ascending order.

        Raises ``DataError`` if there are fewer images.
        """
        _check_limit("train_limit", limit, len(self.train), f"the study has {len(self.train):,} training images")
        return split_stratified(self.train.y_N.cpu(), limit, "train_limit")[0]


@dataclass(frozen=True)
class Source:
    """The result of a registered data set's function, ``(root: Path | None, **options) -> Source``.

    classes: K. shape: (C, H, W). validation: default number of images held out of ``train()``. train, test: read the
    images; only the final evaluation measures on those of ``test``. tests: number of test images, if known without
    reading them. description: one line on what is read, printed when a study starts.
    """

    classes: int
    shape: tuple[int, int, int]
    validation: int
    train: Callable[[], Split]
    test: Callable[[], Split]
    tests: int | None = None
    description: str = ""


def to_pixels(x: Tensor) -> Tensor:
    """Return x as float32 in [0, 1]: uint8 is divided by 255, floating point keeps its values."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x.to(torch.float32)


def load_dataset(data: config.Data) -> Dataset:
    """Read the training images and split them. Does not read the test images.

    The validation images, then ``data.train_limit`` of the rest, are stratified subsets (see ``split_stratified``).
    ``fingerprint`` is the first 16 hex digits of SHA-256 over both splits, the data set's name and ``test_limit``.
    Raises ``DataError``: missing or damaged files, images or labels out of range, limits that are too large, or an
    exception of the data set's code.
    """
    source = open_source(data)
    pool = _read_split(data, source, "training images", source.train)
    if absent := sorted(set(range(source.classes)) - set(pool.y_N.tolist())):
        labels = ", ".join(map(str, absent[:10]))
        remedy = "labels count from 0; add images or correct the number of classes"
        raise DataError(f"data {data.name}: {len(absent)} of {source.classes} classes lack images: {labels}; {remedy}")
    images, held_out = len(pool), source.validation if data.validation is None else data.validation
    if held_out < 1:
        raise DataError(f"the data set holds out {held_out} images; set it to at least 1", "validation")
    _check_limit("validation", held_out, images - 1, f"must be less than the {images:,} training images")
    rest = f"{images - held_out:,} images are left of {images:,} after {held_out:,} for validation"
    _check_limit("train_limit", data.train_limit, images - held_out, rest)
    validation_M, rest_M = split_stratified(pool.y_N, held_out, "validation")
    if data.train_limit is not None:
        rest_M = rest_M[split_stratified(pool.y_N[rest_M], data.train_limit, "train_limit")[0]]
    train, validation = pool.at(rest_M), pool.at(validation_M)
    fingerprint = _fingerprint([data.name, data.test_limit], train, validation)
    return Dataset(train, validation, source.classes, source.shape, fingerprint, source.description)


def load_test(data: config.Data, fingerprint: str = "") -> Split:
    """Read the test images, or a stratified subset of ``data.test_limit``. For the final evaluation only.

    Raises ``DataError`` like ``load_dataset``, and if the images have another fingerprint than the one given.
    """
    source = open_source(data)
    test = _read_split(data, source, "test images", source.test)
    _check_test_limit(data, len(test))
    subset = test.subset(data.test_limit, "test_limit")
    check_fingerprint(data, fingerprint, _fingerprint([data.name], subset) if fingerprint else "")
    return subset


def load_and_check(data: config.Data) -> Dataset:
    """Return the data set after all of its images were read and checked, also those for testing: for the driver.

    ``fingerprint`` has a second part, "-" and 16 hex digits of the test images, because they determine results as well.
    """
    dataset, test = load_dataset(data), load_test(data)
    fingerprint = f"{dataset.fingerprint}-{_fingerprint([data.name], test)}"
    return replace(dataset, fingerprint=fingerprint, tests=len(test))


def check_fingerprint(data: config.Data, expected: str, fingerprint: str) -> None:
    """Raise ``DataError`` if this machine's images are not those that the driver read. An empty text fits all."""
    if expected and expected != fingerprint:
        raise DataError(
            f"data {data.name}: the study began with images of fingerprint {expected}, "
            f"but this machine's have {fingerprint}; give every machine the same files"
        )


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


# ------------------------------------------------------- code of data sets


def open_source(data: config.Data) -> Source:
    """Call the data set's function. Its ``tests``, if known, are those that ``data.test_limit`` leaves.

    Raises ``DataError``: no such folder, missing files, not a sound ``Source``, or a limit that is too large.
    """
    root = None if data.root is None else Path(data.root)
    if root is not None and (reason := _folder_problem(root)):
        raise DataError(f"must be an existing folder, got {root} ({reason}); correct --data-root or drop it", "root")
    function = registry.resolve("datasets", data.name)
    source = _call(data, "opening it", lambda: function(root, **data.options))
    if problems := _source_problems(source):
        raise DataError(f"data {data.name}: {'; '.join(problems)}; correct the data set's function")
    if source.tests is None or data.test_limit is None:
        return source
    _check_test_limit(data, source.tests)
    return replace(source, tests=data.test_limit)


def _folder_problem(root: Path) -> str | None:
    if not is_utf8(root):
        return "its path is not UTF-8; rename it, or name a link to it"
    try:
        return None if stat.S_ISDIR(os.stat(root).st_mode) else "a file"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)


def _call(data: config.Data, step: str, function: Callable[[], Result]) -> Result:
    """Call a data set's code. Raise its exceptions as ``DataError``, which names the type, the text and the line."""
    try:
        return function()
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        module = str(getattr(registry.resolve("datasets", data.name), "__module__", ""))
        if module.partition(".")[0] in OURS:
            raise
        reason = describe_exception(error, module)
        remedy = "correct the data set's function or its options; --debug shows the traceback"
        raise DataError(f"data {data.name} raises an exception while {step}: {reason}; {remedy}") from error


def _source_problems(source: object) -> list[str]:
    if not isinstance(source, Source):
        return [f"its function must return a tune_interpreg.data.Source, got {type(source).__name__}"]
    shape, problems = source.shape, []
    if not isinstance(source.classes, int) or source.classes < 2:
        problems.append(f"classes is a whole number of at least 2, got {source.classes!r}")
    if not isinstance(shape, tuple) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        problems.append(f"shape is a tuple (C, H, W) of whole numbers, got {shape!r}")
    if not isinstance(source.validation, int):
        problems.append(f"validation is a number of images, got {source.validation!r}")
    if source.tests is not None and not isinstance(source.tests, int):
        problems.append(f"tests is a number of images or None, got {source.tests!r}")
    problems += [f"{name} is a function" for name in ("train", "test") if not callable(getattr(source, name))]
    return problems


def _read_split(data: config.Data, source: Source, title: str, read: Callable[[], Split]) -> Split:
    """Return the split that a source reads; raise ``DataError`` with all of its problems."""
    split = _call(data, f"reading its {title}", read)
    problems = _type_problems(split) or _value_problems(split, source)
    if problems:
        remedy = "correct the files or the data set's function"
        raise DataError(f"data {data.name}, {title}: {'; '.join(problems)}; {remedy}")
    return split


def _type_problems(split: object) -> list[str]:
    if not isinstance(split, Split):
        return [f"a tune_interpreg.data.Split is needed, got {type(split).__name__}"]
    tensors = {"images": split.x_NCHW, "labels": split.y_N}
    problems = [
        f"{name} are a torch.Tensor, got {type(tensor).__name__}"
        for name, tensor in tensors.items()
        if not isinstance(tensor, Tensor)
    ]
    if problems:
        return problems
    places = [
        f"{name} lie in dense memory of the CPU, got {tensor.layout} on {tensor.device}"
        for name, tensor in tensors.items()
        if tensor.device.type != "cpu" or tensor.layout != torch.strided
    ]
    gradients = [f"{name} need no gradient: detach them" for name, tensor in tensors.items() if tensor.requires_grad]
    return places + gradients


def _value_problems(split: Split, source: Source) -> list[str]:
    x_NCHW, y_N, problems = split.x_NCHW, split.y_N, []
    if x_NCHW.shape[:1] != y_N.shape or not len(y_N):
        problems.append(f"each image has one label, got shapes {tuple(x_NCHW.shape)} and {tuple(y_N.shape)}")
    if tuple(x_NCHW.shape[1:]) != source.shape:
        problems.append(f"images are {source.shape}, got {tuple(x_NCHW.shape[1:])}")
    if x_NCHW.dtype not in (torch.uint8, torch.float32):
        problems.append(f"images are uint8 or float32, got {x_NCHW.dtype}")
    elif x_NCHW.numel():
        problems += _pixel_problems(x_NCHW)
    if y_N.dtype != torch.int64:
        problems.append(f"labels are int64, got {y_N.dtype}")
    elif y_N.numel() and not ((y_N >= 0) & (y_N < source.classes)).all():
        problems.append(f"labels lie in 0..{source.classes - 1}, got {y_N.min()}..{y_N.max()}")
    return problems


def _pixel_problems(x_NCHW: Tensor) -> list[str]:
    low, high = x_NCHW.min(), x_NCHW.max()
    if x_NCHW.dtype == torch.uint8:
        return [] if high > 1 else ["uint8 images hold 0..255, got nothing above 1; multiply by 255"]
    if not ((x_NCHW >= 0) & (x_NCHW <= 1)).all():
        return [f"pixels lie in [0, 1], got [{low:g}, {high:g}]"]
    return [] if high > 1 / 255 else [f"float32 images hold 0..1, got nothing above {high:g}; do not divide them twice"]


# ------------------------------------------------------------------- limits


def _check_test_limit(data: config.Data, images: int) -> None:
    _check_limit("test_limit", data.test_limit, images, f"there are {images:,} test images")


def _check_limit(key: str, limit: int | None, largest: int, rule: str) -> None:
    if limit is not None and limit > largest:
        raise DataError(f"{rule}, got {limit:,}; lower it or drop it", key)


def _fingerprint(content: list[object], *splits: Split) -> str:
    """Return the first 16 hex digits of SHA-256 over ``content`` and all images and labels."""
    digest = hashlib.sha256(json.dumps(content).encode())
    for split in splits:
        for tensor in (split.x_NCHW, split.y_N):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]
