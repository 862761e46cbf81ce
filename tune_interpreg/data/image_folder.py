"""Any folder of images, <root>/train/CLASS/… and <root>/test/CLASS/…: decoded once, then mapped into memory.

Legend: N images, C·H·W one image. C is always 3 (RGB), even if all images are grey.
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
from tune_interpreg.store.files import replace_atomically

#: Number of images that one task of the thread pool decodes, and the least number that shows a progress bar.
IMAGES_PER_TASK, PROGRESS_FROM = 200, 2000

Pixels = npt.NDArray[np.uint8]

#: Pillow's modes of more than 8 bits per channel. Its conversion to RGB would clip them at 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one split, unread.

    folder: <root>/train or <root>/test. classes: its folders, sorted; a label is a position in this list.
    files: paths below ``folder``, sorted by class and name. labels: one per file.
    """

    folder: Path
    classes: list[str]
    files: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.files)

    def path(self, row: int) -> Path:
        """Return the path of image ``row``."""
        return self.folder / self.files[row]


def image_folder(root: Path | None, *, size: int | None = None) -> Source:
    """The images in <root>/train/CLASS and <root>/test/CLASS, 3×H×W; a tenth of the training images validates.

    A folder's name is its class; both splits have the same classes. Decoded images are cached in
    ~/.cache/tune-interpreg/image_folder. Later runs map them, and all processes of a machine share them.

    Args:
        root: the folder that holds train and test.
        size: H and W in pixels. An image's shorter side is resized to it (antialiased), then the centre is cropped.
            None: all images must have one size, which is kept.

    Raises:
        DataError: no root, missing folders, different classes; when read: damaged images, images of several sizes.
    """
    root = _check_root(root)
    if size is not None and size < 1:
        raise DataError(f"takes a whole number of at least 1, got {size}; correct it or drop it", "size")
    train, test = _list_images(root / "train"), _list_images(root / "test")
    _check_classes(train, test)
    decoder = _Decoder.from_first_image(train.path(0), size)
    return Source(
        classes=len(train.classes),
        shape=(3, decoder.height, decoder.width),
        validation=max(1, len(train) // 10),
        train=lambda: _read_split(train, decoder),
        test=lambda: _read_split(test, decoder),
        tests=len(test),
    )


# ------------------------------------------------------------------- folders


def _check_root(root: Path | None) -> Path:
    rule = "a folder that holds train/CLASS/… and test/CLASS/…"
    if root is None:
        raise DataError(f"image_folder reads {rule}, got none; pass it by --data-root", "root")
    missing = [name for name in ("train", "test") if not (root / name).is_dir()]
    if missing:
        raise DataError(f"must be {rule}, {root} lacks {' and '.join(missing)}; correct it or --data-root", "root")
    return root


def _list_images(folder: Path) -> ImageFiles:
    from torchvision.datasets import ImageFolder  # imported late: it is slow, and only this data set needs it

    try:
        images = ImageFolder(str(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: must hold a folder of images for each class ({error.strerror or str(error).rstrip('.')}); "
            "add images, or remove what is no class"
        ) from error
    start = len(str(folder)) + 1
    return ImageFiles(folder, images.classes, [path[start:] for path, _ in images.samples], images.targets)


def _check_classes(train: ImageFiles, test: ImageFiles) -> None:
    missing = []
    for split, other in ((test, train), (train, test)):
        names = sorted(set(other.classes) - set(split.classes))
        missing += [f"{split.folder} lacks {', '.join(names)}"] if names else []
    if missing:
        rule = "train and test must hold the same classes"
        raise DataError(f"{rule}; {'; '.join(missing)}; add, rename or remove folders")
    if len(train.classes) < 2:
        raise DataError(f"{train.folder}: must hold two classes or more, got {train.classes[0]} alone; add another")


# -------------------------------------------------------------------- images


@dataclass(frozen=True)
class _Decoder:
    """Decode images to one size: ``size`` after resizing, or else the size of the image ``first``."""

    height: int
    width: int
    first: Path
    size: int | None

    @classmethod
    def from_first_image(cls, first: Path, size: int | None) -> _Decoder:
        height, width = (size, size) if size is not None else _decode_file(first).shape[:2]
        return cls(height, width, first, size)

    def decode(self, path: Path) -> Pixels:
        """Return the pixels at ``path``, C×H×W."""
        x_HWC = _decode_file(path, self.size)
        height, width = x_HWC.shape[:2]
        if (height, width) != (self.height, self.width):
            raise DataError(
                f"{path}: all images must have one size, this is {width}×{height} pixels and {self.first} is "
                f"{self.width}×{self.height}; resize them all by data.size: {min(self.height, self.width)}"
            )
        return x_HWC.transpose(2, 0, 1)

    def decode_all(self, images: ImageFiles) -> Pixels:
        x_NCHW = np.empty((len(images), 3, self.height, self.width), np.uint8)

        def decode_rows(rows: range) -> None:
            for row in rows:
                x_NCHW[row] = self.decode(images.path(row))

        rows = range(len(images))
        tasks = [rows[first : first + IMAGES_PER_TASK] for first in rows[::IMAGES_PER_TASK]]
        with ThreadPoolExecutor() as pool:  # threads suffice, because Pillow decodes without the interpreter's lock
            for _ in _show_progress(pool.map(decode_rows, tasks), len(tasks), f"decoding {images.folder.name} images"):
                pass
        return x_NCHW


def _decode_file(path: Path, size: int | None = None) -> Pixels:
    try:
        with Image.open(path) as image:
            mode = image.mode
            x_HWC = np.asarray(_resize(image.convert("RGB"), size) if size else image.convert("RGB"))
    except Exception as error:  # Pillow raises errors of a dozen types for damaged files
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{path}: must be a readable image ({reason}); fetch it again, or delete it") from error
    if mode in DEEP_MODES:
        raise DataError(f"{path}: must have 8 bits per channel, got Pillow's mode {mode}; convert it, or delete it")
    return x_HWC


def _resize(image: Image.Image, size: int) -> Image.Image:
    from torchvision.transforms import functional  # imported late: it is slow

    resized: Image.Image = functional.center_crop(functional.resize(image, [size]), [size, size])
    return resized


def _show_progress(results: Iterable[None], tasks: int, description: str) -> Iterable[None]:
    if tasks * IMAGES_PER_TASK < PROGRESS_FROM or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, description, total=tasks, console=Console(stderr=True), transient=True)


# --------------------------------------------------------------------- cache


def _read_split(images: ImageFiles, decoder: _Decoder) -> Split:
    return Split(torch.from_numpy(_read_pixels(images, decoder)), torch.tensor(images.labels, dtype=torch.int64))


def _read_pixels(images: ImageFiles, decoder: _Decoder) -> Pixels:
    """Return images_NCHW, mapped from the cache if possible, else decoded."""
    try:
        file = cache_folder() / "image_folder" / f"{_digest(images, decoder.size)}.npy"
    except RuntimeError:  # this user has no home folder
        return decoder.decode_all(images)
    expected = (len(images), 3, decoder.height, decoder.width)
    x_NCHW = _map_file(file, expected)
    if x_NCHW is not None:
        return x_NCHW
    decoded_NCHW = decoder.decode_all(images)
    try:
        with replace_atomically(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, decoded_NCHW)
    except OSError:  # the cache is optional: it only saves time
        return decoded_NCHW
    x_NCHW = _map_file(file, expected)
    return decoded_NCHW if x_NCHW is None else x_NCHW


def _digest(images: ImageFiles, size: int | None) -> str:
    """Return a name for the decoded images, from the files' names, sizes and times.

    Raises ``DataError`` if a file has disappeared.
    """
    try:
        stats = [os.stat(images.path(row)) for row in range(len(images))]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(images.files, stats, strict=True)]
        digest = hashlib.sha256(json.dumps([PIL.__version__, images.folder.name, size, files]).encode())
        # Unpacking may give all files one time, and bitmaps have one length. One image per class distinguishes sets.
        for row in dict(zip(reversed(images.labels), reversed(range(len(files))), strict=True)).values():
            digest.update(images.path(row).read_bytes())
    except OSError as error:
        place = error.filename or images.folder
        raise DataError(f"{place}: cannot be read ({error.strerror}); restore it, or remove the image") from error
    return digest.hexdigest()[:32]


def _map_file(file: Path, expected: tuple[int, ...]) -> Pixels | None:
    """Return the images in ``file``, mapped into memory; None if it is missing, damaged or of another shape."""
    try:
        x_NCHW = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    return x_NCHW if (x_NCHW.shape, x_NCHW.dtype) == (expected, np.uint8) else None
