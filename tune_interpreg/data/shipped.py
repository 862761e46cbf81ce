"""The data sets that are shipped: digits, MNIST, FashionMNIST, CIFAR-10. Each is ``(root: Path | None) -> Source``.

Legend: N images, C·H·W one image, D = C·H·W. ``image_folder`` reads a user's own images.
"""

import math
import os
import tempfile
import warnings
from functools import cache, partial
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tune_interpreg.data.dataset import DataError, Source, Split, split_stratified

#: The files (images, labels) of MNIST and FashionMNIST for training and for testing, in <root>/<name>/raw.
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")

#: Names of the data sets that are downloaded into the cache where they are missing.
DOWNLOADED = ("mnist", "fashion_mnist", "cifar10")


def digits(root: Path | None) -> Source:
    """scikit-learn's 1,797 digits, 1×8×8: 1,437 for training (240 of them for validation), 360 for testing.

    They come with scikit-learn, so ``root`` is ignored. They have no official test split; ours is fixed.
    """
    return Source(10, (1, 8, 8), 240, partial(_digits, test=False), partial(_digits, test=True), tests=360)


def _digits(*, test: bool) -> Split:
    images = _read_digits()
    test_M, train_M = split_stratified(images.y_N, 360, "digits test")
    return images.at(test_M if test else train_M)


@cache  # to read the text takes 20 ms, and each judgment reads its images
def _read_digits() -> Split:
    # sklearn.datasets.load_digits reads the same file, but its import costs a second per process.
    table = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    x_ND, y_N = np.split(np.loadtxt(str(table), delimiter=","), [64], axis=1)
    x_NCHW = torch.from_numpy(x_ND / 16).to(torch.float32).reshape(-1, 1, 8, 8)
    return Split(x_NCHW, torch.from_numpy(y_N).to(torch.int64).squeeze(1))


def mnist(root: Path | None) -> Source:
    """MNIST, 1×28×28: 60,000 for training (5,000 of them for validation), 10,000 for testing; in <root>/MNIST/raw."""
    return _idx_source("MNIST", root)


def fashion_mnist(root: Path | None) -> Source:
    """FashionMNIST, of the same sizes and splits as MNIST; in <root>/FashionMNIST/raw."""
    return _idx_source("FashionMNIST", root)


def _idx_source(name: str, root: Path | None) -> Source:
    folder = _find_folder(root, name, f"{name}/raw", TRAIN_FILES + TEST_FILES)
    train, test = (partial(_read_idx_split, folder, *files) for files in (TRAIN_FILES, TEST_FILES))
    return Source(10, (1, 28, 28), 5000, train, test, tests=10_000)


def _read_idx_split(folder: Path, images: str, labels: str) -> Split:
    x_NHW, y_N = _read_idx(folder / images, dimensions=3), _read_idx(folder / labels, dimensions=1)
    return Split(x_NHW.unsqueeze(1), y_N.long())


def _read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read an IDX file of bytes: 00 00 08 dimensions, each size as a big-endian uint32, then the values."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}); restore it, or name another --data-root") from error
    start = 4 + 4 * dimensions
    sizes = [int.from_bytes(content[place : place + 4].tobytes(), "big") for place in range(4, start, 4)]
    if content[:4].tolist() != [0, 0, 8, dimensions] or content.size != start + math.prod(sizes):
        header = content[:start].tobytes().hex(" ") or "nothing"
        raise DataError(
            f"{path}: an IDX file of bytes holds 00 00 08 {dimensions:02x}, {dimensions} sizes and as many values, got "
            f"{content.size:,} bytes that begin with {header}; delete it, fetch it again and unpack it"
        )
    return torch.from_numpy(content[start:].reshape(sizes))


def cifar10(root: Path | None) -> Source:
    """CIFAR-10, 3×32×32: 50,000 for training (5,000 of them for validation), 10,000 for testing.

    <root>/cifar-10-batches-py holds the published pickles. Nothing is unpickled unless all of them, including those
    of the other split, have the published checksums.
    """
    read = partial(_read_cifar, _find_folder(root, "CIFAR10", "cifar-10-batches-py", CIFAR_FILES))
    return Source(10, (3, 32, 32), 5000, partial(read, train=True), partial(read, train=False), tests=10_000)


def _read_cifar(folder: Path, *, train: bool) -> Split:
    from torchvision.datasets import CIFAR10  # imported late: it is slow, and only this data set needs it

    try:
        with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 warn about the dtypes in these old pickles
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            images = CIFAR10(folder.parent, train=train)
    except RuntimeError as error:
        rule = "must hold the published files of CIFAR10, got a file with another checksum"
        remedy = "delete the folder, fetch cifar-10-python.tar.gz and unpack it in its place"
        raise DataError(f"{folder}: {rule}; {remedy}") from error
    x_NCHW = torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous()
    return Split(x_NCHW, torch.tensor(images.targets, dtype=torch.int64))


def cache_folder() -> Path:
    """Return ~/.cache/tune-interpreg, which may not exist. Raises ``RuntimeError`` if the user has no home folder."""
    return Path.home() / ".cache" / "tune-interpreg"


def _find_folder(root: Path | None, name: str, place: str, files: tuple[str, ...]) -> Path:
    """Return the folder ``place`` in ``root`` with the files of torchvision's data set ``name``.

    Without a root it lies in the cache, and missing files are downloaded.
    """
    folder = (cache_folder() if root is None else root) / place
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and root is None:
        _download(name, place, files)
    elif missing:
        raise DataError(
            f"{folder}: must hold the unpacked files of {name}, lacks {', '.join(missing)}; "
            f"pass --data-root with a folder that holds {place}, or drop it to download"
        )
    return folder


def _download(name: str, place: str, files: tuple[str, ...]) -> None:
    """Download into a temporary folder and then rename the files, so that no partial file is ever in place."""
    import torchvision  # imported late: it is slow, and only a download needs it

    folder = cache_folder() / place
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary:
            getattr(torchvision.datasets, name)(temporary, download=True)
            for file in files:
                os.replace(Path(temporary, place, file), folder / file)
    except (RuntimeError, OSError, HTTPException) as error:
        raise DataError(
            f"{folder}: must hold {name}, which could not be downloaded ({' '.join(str(error).split())}); fetch its "
            f"files, unpack them into a folder {place}, and pass --data-root with the folder that holds {place}"
        ) from error
