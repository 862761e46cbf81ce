"""The data sets that come along: digits, MNIST, FashionMNIST. Each is ``(root: Path | None) -> Source``.

Legend: N images, C·H·W one image.
"""

from __future__ import annotations

import math
import os
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tune_interpreg.data import DataError, Source, Split, stratified

#: The files of MNIST and its like, (images, labels) for training and for testing, in <root>/<name>/raw.
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def digits(root: Path | None) -> Source:
    """scikit-learn's 1,797 digits, 1×8×8, sixteenths: 1,437 for training (240 of them validation), 360 for testing.

    They come with scikit-learn and have no official test split, so it is a fixed one; ``root`` is not used.
    """
    return Source(10, (1, 8, 8), 240, lambda: _digits(test=False), lambda: _digits(test=True), tests=360)


def _digits(*, test: bool) -> Split:
    from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

    images, labels = load_digits(return_X_y=True)
    x_NCHW = torch.from_numpy(images / 16).to(torch.float32).reshape(-1, 1, 8, 8)
    everything = Split(x_NCHW, torch.from_numpy(labels).to(torch.int64))
    test_M, train_M = stratified(everything.y_N, 360, "digits test")
    return everything.at(test_M if test else train_M)


def mnist(root: Path | None) -> Source:
    """MNIST, 1×28×28: 60,000 for training (5,000 of them validation), 10,000 for testing; <root>/MNIST/raw."""
    return _idx_source("MNIST", root)


def fashion_mnist(root: Path | None) -> Source:
    """FashionMNIST, sized and split as MNIST; <root>/FashionMNIST/raw."""
    return _idx_source("FashionMNIST", root)


def _idx_source(name: str, root: Path | None) -> Source:
    folder = (download(name) if root is None else root) / name / "raw"
    missing = _missing(folder)
    if missing:
        raise DataError(
            f"{folder}: must hold the four unpacked files of {name}, lacks {', '.join(missing)}; "
            f"pass --data-root with a folder that holds {name}/raw, or drop it to download"
        )
    return Source(
        classes=10,
        shape=(1, 28, 28),
        validation=5000,
        train=lambda: _idx_split(folder, TRAIN_FILES),
        test=lambda: _idx_split(folder, TEST_FILES),
        tests=10_000,
    )


def _idx_split(folder: Path, files: tuple[str, str]) -> Split:
    images, labels = files
    return Split(read_idx(folder / images, dimensions=3).unsqueeze(1), read_idx(folder / labels, dimensions=1).long())


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read an IDX file of bytes: 00 00 08 dimensions, each size as a big-endian uint32, then the values.

    Returns a uint8 tensor of these sizes. Raises ``DataError`` for another header or length.
    """
    content = np.fromfile(path, dtype=np.uint8)
    start = 4 + 4 * dimensions
    if content[:4].tolist() != [0, 0, 8, dimensions] or content.size < start:
        raise DataError(
            f"{path}: an IDX file of bytes begins with 00 00 08 {dimensions:02x} and {dimensions} sizes, "
            f"got {content[:start].tobytes().hex(' ') or 'nothing'}; delete it, fetch it again and unpack it"
        )
    sizes = content[4:start].view(">u4").tolist()
    expected = start + math.prod(sizes)
    if content.size != expected:
        raise DataError(
            f"{path}: the header {'×'.join(map(str, sizes))} asks for {expected:,} bytes, "
            f"got {content.size:,}; delete it, fetch it again and unpack it"
        )
    return torch.from_numpy(content[start:].reshape(sizes))


def download(name: str) -> Path:
    """Return the cache folder, ~/.cache/tune-interpreg, after fetching torchvision's data set ``name`` if needed.

    Files are fetched beside their place and renamed into it, so none is ever there in part.
    Raises ``DataError`` when they cannot be fetched.
    """
    cache = Path.home() / ".cache" / "tune-interpreg"
    folder = cache / name / "raw"
    if not _missing(folder):
        return cache
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            _fetch(name, fresh)
            folder.mkdir(parents=True, exist_ok=True)
            for file in TRAIN_FILES + TEST_FILES:
                os.replace(Path(fresh, name, "raw", file), folder / file)
    except (RuntimeError, OSError, HTTPException) as error:
        raise DataError(
            f"{folder}: must hold {name}, which could not be downloaded ({' '.join(str(error).split())}); "
            f"fetch its four files, unpack them into {name}/raw, and pass --data-root with the folder that holds {name}"
        ) from error
    return cache


def _fetch(name: str, folder: str) -> None:
    import torchvision  # slow to import, and only a download needs it

    getattr(torchvision.datasets, name)(folder, download=True)


def _missing(folder: Path) -> list[str]:
    return [file for file in TRAIN_FILES + TEST_FILES if not (folder / file).is_file()]
