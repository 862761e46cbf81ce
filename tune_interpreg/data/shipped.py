"""The data sets that come along: digits, MNIST, FashionMNIST, CIFAR-10. Each is ``(root: Path | None) -> Source``.

Legend: N images, C·H·W one image. A folder of one's own is ``image_folder``'s.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tune_interpreg.data.dataset import DataError, Source, Split, split_stratified

#: The files of MNIST and its like, (images, labels) for training and for testing, in <root>/<name>/raw.
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

#: The files of CIFAR-10, pickled batches, in <root>/cifar-10-batches-py.
CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


@dataclass(frozen=True)
class Stored:
    """A data set in files, as torchvision stores it.

    name: torchvision's class. folder, files: where they lie below the root. remedy: how to get them by hand.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    remedy: str

    def missing(self, root: Path) -> list[str]:
        """The files that ``root`` lacks."""
        return [file for file in self.files if not (root / self.folder / file).is_file()]


CIFAR = Stored("CIFAR10", "cifar-10-batches-py", CIFAR_FILES, "fetch cifar-10-python.tar.gz and unpack it")


def digits(root: Path | None) -> Source:
    """scikit-learn's 1,797 digits, 1×8×8, sixteenths: 1,437 for training (240 of them validation), 360 for testing.

    They come with scikit-learn and have no official test split, so it is a fixed one; ``root`` is not used.
    """
    return Source(10, (1, 8, 8), 240, lambda: _digits(test=False), lambda: _digits(test=True), tests=360)


def _digits(*, test: bool) -> Split:
    x_ND, y_N = np.split(_digits_table(), [64], axis=1)
    x_NCHW = torch.from_numpy(x_ND / 16).to(torch.float32).reshape(-1, 1, 8, 8)
    everything = Split(x_NCHW, torch.from_numpy(y_N).to(torch.int64).squeeze(1))
    test_M, train_M = split_stratified(everything.y_N, 360, "digits test")
    return everything.at(test_M if test else train_M)


def _digits_table() -> NDArray[np.float64]:
    """The 1,797 rows of 64 pixels and a label that ``sklearn.datasets.load_digits`` reads.

    Read without it: its import takes each worker, and a look at a finished study, a second.
    """
    path = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits  # a version that keeps it elsewhere

    return np.column_stack(load_digits(return_X_y=True))


def mnist(root: Path | None) -> Source:
    """MNIST, 1×28×28: 60,000 for training (5,000 of them validation), 10,000 for testing; <root>/MNIST/raw."""
    return _idx_source("MNIST", root)


def fashion_mnist(root: Path | None) -> Source:
    """FashionMNIST, sized and split as MNIST; <root>/FashionMNIST/raw."""
    return _idx_source("FashionMNIST", root)


def _idx_source(name: str, root: Path | None) -> Source:
    remedy = f"fetch its four files and unpack them into {name}/raw"
    folder = _folder(Stored(name, f"{name}/raw", TRAIN_FILES + TEST_FILES, remedy), root)
    return Source(
        classes=10,
        shape=(1, 28, 28),
        validation=5000,
        train=lambda: _idx_split(folder, TRAIN_FILES),
        test=lambda: _idx_split(folder, TEST_FILES),
        tests=10_000,
    )


def cifar10(root: Path | None) -> Source:
    """CIFAR-10, 3×32×32: 50,000 for training (5,000 of them validation), 10,000 for testing.

    <root>/cifar-10-batches-py holds the published pickles. They are unpickled only if all of them, those of the other
    split too, have the published checksums.
    """
    folder = _folder(CIFAR, root)
    return Source(
        classes=10,
        shape=(3, 32, 32),
        validation=5000,
        train=lambda: _cifar_split(folder, train=True),
        test=lambda: _cifar_split(folder, train=False),
        tests=10_000,
    )


def _cifar_split(folder: Path, *, train: bool) -> Split:
    from torchvision.datasets import CIFAR10  # slow to import, and only this data set needs it

    try:
        with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 complain about pickles of this age
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            read = CIFAR10(folder.parent, train=train)
    except RuntimeError as error:
        raise DataError(
            f"{folder}: must hold the published files of CIFAR10, got other checksums for "
            f"{', '.join(_altered(folder))}; delete the folder, then {CIFAR.remedy} in its place"
        ) from error
    x_NCHW = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
    return Split(x_NCHW, torch.tensor(read.targets, dtype=torch.int64))


def _altered(folder: Path) -> list[str]:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    published = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    return [file for file, md5 in published if not check_integrity(folder / file, md5)]


def _idx_split(folder: Path, files: tuple[str, str]) -> Split:
    images, labels = (folder / file for file in files)
    x_NHW, y_N = read_idx(images, dimensions=3), read_idx(labels, dimensions=1).long()
    if x_NHW.shape[1:] != (28, 28):
        raise _again(images, f"images are (1, 28, 28), got {(1, *x_NHW.shape[1:])}")
    if len(y_N) != len(x_NHW):
        raise _again(labels, f"holds a label for each of the {len(x_NHW):,} images in {images.name}, got {len(y_N):,}")
    if (y_N > 9).any():
        raise _again(labels, f"labels lie in 0..9, got {y_N.max()} for image {int((y_N > 9).nonzero()[0])}")
    return Split(x_NHW.unsqueeze(1), y_N)


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read an IDX file of bytes: 00 00 08 dimensions, each size as a big-endian uint32, then the values.

    Returns a uint8 tensor of these sizes. Raises ``DataError`` for another header or length, and where it is not read.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}); mend that, or name another --data-root") from error
    start = 4 + 4 * dimensions
    if content[:4].tolist() != [0, 0, 8, dimensions] or content.size < start:
        begins = content[:start].tobytes().hex(" ") or "nothing"
        rule = f"an IDX file of bytes begins with 00 00 08 {dimensions:02x} and {dimensions} sizes"
        raise _again(path, f"{rule}, got {begins}")
    sizes = content[4:start].view(">u4").tolist()
    expected = start + math.prod(sizes)
    if content.size != expected:
        shape = "×".join(map(str, sizes))
        raise _again(path, f"the header {shape} asks for {expected:,} bytes, got {content.size:,}")
    return torch.from_numpy(content[start:].reshape(sizes))


def _again(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: {problem}; delete it, fetch it again and unpack it")


def cache_folder() -> Path:
    """~/.cache/tune-interpreg, which need not exist yet. Raises ``RuntimeError`` for a user without a home."""
    return Path.home() / ".cache" / "tune-interpreg"


def _folder(stored: Stored, root: Path | None) -> Path:
    root = download(stored) if root is None else root
    folder, missing = root / stored.folder, stored.missing(root)
    if missing:
        raise DataError(
            f"{folder}: must hold the unpacked files of {stored.name}, lacks {', '.join(missing)}; "
            f"pass --data-root with a folder that holds {stored.folder}, or drop it to download"
        )
    return folder


def download(stored: Stored) -> Path:
    """Return the cache folder after fetching the data set into it by torchvision, if needed.

    Files are fetched beside their place and renamed into it, so none is ever there in part.
    Raises ``DataError`` when they cannot be fetched.
    """
    cache = cache_folder()
    folder = cache / stored.folder
    if not stored.missing(cache):
        return cache
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            _fetch(stored.name, fresh)
            folder.mkdir(parents=True, exist_ok=True)
            for file in stored.files:
                os.replace(Path(fresh, stored.folder, file), folder / file)
    except (RuntimeError, OSError, HTTPException) as error:
        raise DataError(
            f"{folder}: must hold {stored.name}, which could not be downloaded ({' '.join(str(error).split())}); "
            f"{stored.remedy}, and pass --data-root with the folder that holds {stored.folder}"
        ) from error
    return cache


def _fetch(name: str, folder: str) -> None:
    import torchvision  # slow to import, and only a download needs it

    getattr(torchvision.datasets, name)(folder, download=True)
