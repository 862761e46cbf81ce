"""Any folder of images, <root>/train/CLASS/… and <root>/test/CLASS/…: decoded once, then mapped into memory.

Legend: N images, C·H·W one image; C is always 3, red, green and blue, also where all images are grey.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image

from tune_interpreg.data.dataset import DataError, Source, Split
from tune_interpreg.data.shipped import cache_folder
from tune_interpreg.store.files import writing

#: Images that one task of the thread pool decodes, and from how many on a terminal shows how far they are.
IMAGES_A_TASK, MANY = 200, 2000

Pixels = npt.NDArray[np.uint8]

#: Pillow's modes of more than 8 bits a channel, which its conversion to RGB would clip at 255.
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Listing:
    """The images of one split as they lie on disk, unread.

    folder: <root>/train or <root>/test. classes: the folders in it, sorted; a label counts them from 0.
    files: below ``folder``, sorted by class and name. labels: of the files.
    """

    folder: Path
    classes: list[str]
    files: list[str]
    labels: list[int]

    def path(self, row: int) -> Path:
        """Where image ``row`` lies."""
        return self.folder / self.files[row]


def image_folder(root: Path | None, *, size: int | None = None) -> Source:
    """The images in <root>/train/CLASS and <root>/test/CLASS, 3×H×W; a tenth of the training ones are validation.

    A folder's name is its class; each split has the same ones. The decoded images are kept in
    ~/.cache/tune-interpreg/image_folder, so that later runs map them instead, and those of a machine share them.

    Args:
        root: the folder that holds train and test.
        size: H and W in pixels: an image's shorter side is resized to it (antialiased), then its centre cut out.
            None: all images have one size, which is kept.

    Raises:
        DataError: no root or folder, classes that differ; when read: images that are damaged or of several sizes.
    """
    root = _checked_root(root)
    if size is not None and size < 1:
        raise DataError(f"takes a whole number of at least 1, got {size}; mend it or drop it", "size")
    train, test = _listing(root / "train"), _listing(root / "test")
    _check_classes(train, test)
    like = _Like.of(train.path(0), size)
    return Source(
        classes=len(train.classes),
        shape=(3, like.height, like.width),
        validation=max(1, len(train.files) // 10),
        train=lambda: _split(train, like),
        test=lambda: _split(test, like),
        tests=len(test.files),
    )


# ------------------------------------------------------------------- folders


def _checked_root(root: Path | None) -> Path:
    wanted = "a folder that holds train/CLASS/… and test/CLASS/…"
    if root is None:
        raise DataError(f"image_folder reads {wanted}, got none; pass it by --data-root", "root")
    lacking = [name for name in ("train", "test") if not (root / name).is_dir()]
    if lacking:
        raise DataError(f"must be {wanted}, {root} lacks {' and '.join(lacking)}; mend it or --data-root", "root")
    return root


def _listing(folder: Path) -> Listing:
    from torchvision.datasets import ImageFolder  # slow to import, and only this data set needs it

    try:
        found = ImageFolder(str(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: must hold a folder of images for each class ({error.strerror or str(error).rstrip('.')}); "
            "add images, or remove what is no class"
        ) from error
    start = len(str(folder)) + 1
    return Listing(folder, found.classes, [path[start:] for path, _ in found.samples], found.targets)


def _check_classes(train: Listing, test: Listing) -> None:
    ours, theirs = set(train.classes), set(test.classes)
    if ours != theirs:
        pairs = ((test.folder, ours - theirs), (train.folder, theirs - ours))
        lacking = "; ".join(f"{folder} lacks {', '.join(sorted(names))}" for folder, names in pairs if names)
        raise DataError(f"train and test must hold the same classes; {lacking}; add, rename or remove folders")
    if len(ours) < 2:
        raise DataError(f"{train.folder}: must hold two classes or more, got {train.classes[0]} alone; add another")


# -------------------------------------------------------------------- images


@dataclass(frozen=True)
class _Like:
    """The size that every image has or gets: that of the image ``first``, or ``size`` after resizing."""

    height: int
    width: int
    first: Path
    size: int | None

    @classmethod
    def of(cls, first: Path, size: int | None) -> _Like:
        height, width = (size, size) if size is not None else _decoded(first).shape[:2]
        return cls(height, width, first, size)

    def image(self, path: Path) -> Pixels:
        """The pixels at ``path``, C×H×W."""
        x_HWC = _decoded(path, self.size)
        height, width = x_HWC.shape[:2]
        if (height, width) != (self.height, self.width):
            raise DataError(
                f"{path}: all images must have one size, this is {width}×{height} pixels and {self.first} is "
                f"{self.width}×{self.height}; resize them all by data.size: {min(self.height, self.width)}"
            )
        return x_HWC.transpose(2, 0, 1)


def _decoded(path: Path, size: int | None = None) -> Pixels:
    try:
        with Image.open(path) as image:
            mode = image.mode
            x_HWC = np.asarray(_resized(image.convert("RGB"), size))
    except Exception as error:  # a damaged file makes Pillow raise errors of a dozen kinds
        raise DataError(
            f"{path}: must be an image that can be read ({type(error).__name__}: {' '.join(str(error).split())}); "
            "fetch it again, or delete it"
        ) from error
    if mode in DEEP:
        raise DataError(f"{path}: must have 8 bits a channel, got Pillow's mode {mode}; convert it, or delete it")
    return x_HWC


def _resized(image: Image.Image, size: int | None) -> Image.Image:
    if size is None:
        return image
    from torchvision.transforms import functional

    resized: Image.Image = functional.center_crop(functional.resize(image, [size]), [size, size])
    return resized


def _decode(listing: Listing, like: _Like) -> Pixels:
    x_NCHW = np.empty((len(listing.files), 3, like.height, like.width), np.uint8)

    def some(rows: range) -> None:
        for row in rows:
            x_NCHW[row] = like.image(listing.path(row))

    every = range(len(listing.files))
    tasks = [every[first : first + IMAGES_A_TASK] for first in every[::IMAGES_A_TASK]]
    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter's lock
        for _ in _tracked(pool.map(some, tasks), len(tasks), f"decoding {listing.folder.name} images"):
            pass
    return x_NCHW


def _tracked(done: Iterable[None], tasks: int, told: str) -> Iterable[None]:
    if tasks * IMAGES_A_TASK < MANY or not sys.stderr.isatty():
        return done
    from rich.console import Console
    from rich.progress import track

    return track(done, told, total=tasks, console=Console(stderr=True), transient=True)


# --------------------------------------------------------------------- cache


def _split(listing: Listing, like: _Like) -> Split:
    return Split(torch.from_numpy(_images(listing, like)), torch.tensor(listing.labels, dtype=torch.int64))


def _images(listing: Listing, like: _Like) -> Pixels:
    """The decoded images_NCHW, mapped from the cache where that can be had."""
    try:
        file = cache_folder() / "image_folder" / f"{_digest(listing, like.size)}.npy"
    except RuntimeError:  # this user has no home folder
        return _decode(listing, like)
    mapped = _mapped(file, (len(listing.files), 3, like.height, like.width))
    return _kept(file, _decode(listing, like)) if mapped is None else mapped


def _digest(listing: Listing, size: int | None) -> str:
    """Names the images by their files' names, sizes and times; raises ``DataError`` where one is gone meanwhile."""
    try:
        stats = [os.stat(listing.path(row)) for row in range(len(listing.files))]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(listing.files, stats, strict=True)]
        digest = hashlib.sha256(json.dumps([PIL.__version__, listing.folder.name, size, files]).encode())
        # Archives may set all times alike, and uncompressed images have one length: one image a class tells sets apart.
        for row in dict(zip(reversed(listing.labels), reversed(range(len(files))), strict=True)).values():
            digest.update(listing.path(row).read_bytes())
    except OSError as error:
        place = error.filename or listing.folder
        raise DataError(f"{place}: cannot be read ({error.strerror}); mend that, or remove the image") from error
    return digest.hexdigest()[:32]


def _mapped(file: Path, expected: tuple[int, ...]) -> Pixels | None:
    """The images in ``file``, mapped into memory, or None where it is missing, damaged or holds something else."""
    try:
        x_NCHW = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    return x_NCHW if (x_NCHW.shape, x_NCHW.dtype) == (expected, np.uint8) else None


def _kept(file: Path, x_NCHW: Pixels) -> Pixels:
    """Write the images and return them mapped, or as they are where the cache cannot be written."""
    try:
        with writing(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, x_NCHW)
    except OSError:  # the cache saves time, nothing else
        return x_NCHW
    mapped = _mapped(file, x_NCHW.shape)
    return x_NCHW if mapped is None else mapped
