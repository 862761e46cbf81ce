"""The data sets that are shipped: digits, MNIST, FashionMNIST, CIFAR-10. Each is ``(root: Path | None) -> Source``.

Legend: N images, C·H·W one image, D = C·H·W. ``image_folder`` reads a user's own images.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tune_interpreg.data.dataset import DataError, Source, Split, split_stratified

#: The files (images, labels) of MNIST and FashionMNIST for training and for testing, in <root>/<name>/raw.
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

#: The pickled files of CIFAR-10, in <root>/cifar-10-batches-py.
CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


@dataclass(frozen=True)
class StoredFiles:
    """The files of a data set, as torchvision stores them.

    name: torchvision's class. folder, files: their place below the root. remedy: how to get them by hand.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    remedy: str

    def find_missing(self, root: Path) -> list[str]:
        """Return the files that ``root`` lacks."""
        return [file for file in self.files if not (root / self.folder / file).is_file()]


CIFAR = StoredFiles("CIFAR10", "cifar-10-batches-py", CIFAR_FILES, "fetch cifar-10-python.tar.gz and unpack it")


def digits(root: Path | None) -> Source:
    """scikit-learn's 1,797 digits, 1×8×8: 1,437 for training (240 of them for validation), 360 for testing.

    They come with scikit-learn, so ``root`` is ignored. They have no official test split; ours is fixed.
    """
    return Source(10, (1, 8, 8), 240, partial(_digits, test=False), partial(_digits, test=True), tests=360)


def _digits(*, test: bool) -> Split:
    x_ND, y_N = np.split(_digits_table(), [64], axis=1)
    x_NCHW = torch.from_numpy(x_ND / 16).to(torch.float32).reshape(-1, 1, 8, 8)
    split = Split(x_NCHW, torch.from_numpy(y_N).to(torch.int64).squeeze(1))
    test_M, train_M = split_stratified(split.y_N, 360, "digits test")
    return split.at(test_M if test else train_M)


def _digits_table() -> NDArray[np.float64]:
    """Return 1,797 rows of 64 pixels (0..16) and a label.

    ``sklearn.datasets.load_digits`` reads the same file, but its import costs a second per process.
    """
    path = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits  # for versions that keep the file elsewhere

    return np.column_stack(load_digits(return_X_y=True))


def mnist(root: Path | None) -> Source:
    """MNIST, 1×28×28: 60,000 for training (5,000 of them for validation), 10,000 for testing; in <root>/MNIST/raw."""
    return _idx_source("MNIST", root)


def fashion_mnist(root: Path | None) -> Source:
    """FashionMNIST, of the same sizes and splits as MNIST; in <root>/FashionMNIST/raw."""
    return _idx_source("FashionMNIST", root)


def _idx_source(name: str, root: Path | None) -> Source:
    remedy = f"fetch its four files and unpack them into {name}/raw"
    folder = _find_folder(StoredFiles(name, f"{name}/raw", TRAIN_FILES + TEST_FILES, remedy), root)
    train, test = (partial(_read_idx_split, folder, files) for files in (TRAIN_FILES, TEST_FILES))
    return Source(10, (1, 28, 28), 5000, train, test, tests=10_000)


def _read_idx_split(folder: Path, files: tuple[str, str]) -> Split:
    images, labels = (folder / file for file in files)
    x_NHW, y_N = read_idx(images, dimensions=3), read_idx(labels, dimensions=1).long()
    if x_NHW.shape[1:] != (28, 28):
        raise _damaged(images, f"images are (1, 28, 28), got {(1, *x_NHW.shape[1:])}")
    if len(y_N) != len(x_NHW):
        raise _damaged(labels, f"must have one label for each of the {len(x_NHW):,} images, got {len(y_N):,}")
    if (y_N > 9).any():
        raise _damaged(labels, f"labels lie in 0..9, got {y_N.max()} for image {int((y_N > 9).nonzero()[0])}")
    return Split(x_NHW.unsqueeze(1), y_N)


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read an IDX file of bytes: 00 00 08 dimensions, each size as a big-endian uint32, then the values.

    Returns a uint8 tensor of these sizes. Raises ``DataError`` if the file is unreadable or has another header or
    length.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}); restore it, or name another --data-root") from error
    start = 4 + 4 * dimensions
    if content[:4].tolist() != [0, 0, 8, dimensions] or content.size < start:
        header = content[:start].tobytes().hex(" ") or "nothing"
        rule = f"an IDX file of bytes begins with 00 00 08 {dimensions:02x} and {dimensions} sizes"
        raise _damaged(path, f"{rule}, got {header}")
    sizes = content[4:start].view(">u4").tolist()
    expected = start + math.prod(sizes)
    if content.size != expected:
        shape = "×".join(map(str, sizes))
        raise _damaged(path, f"the header {shape} asks for {expected:,} bytes, got {content.size:,}")
    return torch.from_numpy(content[start:].reshape(sizes))


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: {problem}; delete it, fetch it again and unpack it")


def cifar10(root: Path | None) -> Source:
    """CIFAR-10, 3×32×32: 50,000 for training (5,000 of them for validation), 10,000 for testing.

    <root>/cifar-10-batches-py holds the published pickles. Nothing is unpickled unless all of them, including those
    of the other split, have the published checksums.
    """
    read = partial(_read_cifar, _find_folder(CIFAR, root))
    return Source(10, (3, 32, 32), 5000, partial(read, train=True), partial(read, train=False), tests=10_000)


def _read_cifar(folder: Path, *, train: bool) -> Split:
    from torchvision.datasets import CIFAR10  # imported late: it is slow, and only this data set needs it
    from torchvision.datasets.utils import check_integrity

    try:
        with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 warn about the dtypes in these old pickles
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            images = CIFAR10(folder.parent, train=train)
    except RuntimeError as error:
        published = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
        altered = [file for file, md5 in published if not check_integrity(folder / file, md5)]
        raise DataError(
            f"{folder}: must hold the published files of CIFAR10, got other checksums for {', '.join(altered)}; "
            f"delete the folder, then {CIFAR.remedy} in its place"
        ) from error
    x_NCHW = torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous()
    return Split(x_NCHW, torch.tensor(images.targets, dtype=torch.int64))


def cache_folder() -> Path:
    """Return ~/.cache/tune-interpreg, which may not exist. Raises ``RuntimeError`` if the user has no home folder."""
    return Path.home() / ".cache" / "tune-interpreg"


def _find_folder(stored: StoredFiles, root: Path | None) -> Path:
    """Return the folder of the files, in ``root`` or, without one, downloaded into the cache."""
    root = download(stored) if root is None else root
    folder, missing = root / stored.folder, stored.find_missing(root)
    if missing:
        raise DataError(
            f"{folder}: must hold the unpacked files of {stored.name}, lacks {', '.join(missing)}; "
            f"pass --data-root with a folder that holds {stored.folder}, or drop it to download"
        )
    return folder


def download(stored: StoredFiles) -> Path:
    """Download the data set into the cache, unless it is there. Return the cache folder.

    Files arrive in a temporary folder and are then renamed, so that no partial file is ever in place.
    Raises ``DataError`` if the download fails.
    """
    cache = cache_folder()
    folder = cache / stored.folder
    if not stored.find_missing(cache):
        return cache
    import torchvision  # imported late: it is slow, and only a download needs it

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            getattr(torchvision.datasets, stored.name)(temporary, download=True)
            folder.mkdir(parents=True, exist_ok=True)
            for file in stored.files:
                os.replace(Path(temporary, stored.folder, file), folder / file)
    except (RuntimeError, OSError, HTTPException) as error:
        raise DataError(
            f"{folder}: must hold {stored.name}, which could not be downloaded ({' '.join(str(error).split())}); "
            f"{stored.remedy}, and pass --data-root with the folder that holds {stored.folder}"
        ) from error
    return cache
