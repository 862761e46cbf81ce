"""Any folder of images, <root>/train/CLASS/… and <root>/test/CLASS/…: decoded once, then mapped into memory.

Legend: N images, C·H·W one image. C is always 3 (RGB), even if all images are grey.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from tune_interpreg.data.dataset import DataError, Source, Split
from tune_interpreg.data.shipped import cache_folder
from tune_interpreg.store.files import replace_atomically

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

Pixels = npt.NDArray[np.uint8]

#: Pillow's modes of more than 8 bits per channel. Its conversion to RGB would clip them at 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def image_folder(root: Path | None, *, size: int | None = None) -> Source:
    """The images in <root>/train/CLASS and <root>/test/CLASS, 3×H×W; a tenth of the training images validates.

    A folder's name is its class. Decoded images are cached in ~/.cache/tune-interpreg/image_folder. Later runs map
    them, and all processes of a machine share them.

    Args:
        root: the folder that holds train and test.
        size: H and W in pixels. An image's shorter side is resized to it (antialiased), then the centre is cropped.
            None: all images must have one size, which is kept.

    Raises:
        DataError: no root, missing folders, different classes; when read: damaged images, images of several sizes.
    """
    rule = "a folder that holds train/CLASS/… and test/CLASS/…"
    if root is None:
        raise DataError(f"image_folder reads {rule}, got none; pass it by --data-root", "root")
    missing = [name for name in ("train", "test") if not (root / name).is_dir()]
    if missing:
        raise DataError(f"must be {rule}, {root} lacks {' and '.join(missing)}; correct it or --data-root", "root")
    if size is not None and size < 1:
        raise DataError(f"takes a whole number of at least 1, got {size}; correct it or drop it", "size")
    train, test = _list_images(root / "train"), _list_images(root / "test")
    different = sorted(set(train.classes) ^ set(test.classes))
    if different:
        rule = "train and test must hold the same classes, got in only one of them"
        raise DataError(f"{root}: {rule}: {', '.join(different)}; add, rename or remove folders")
    if len(train.classes) < 2:
        raise DataError(f"{root}: must hold two classes or more, got {train.classes[0]} alone; add another")
    first, _ = train.samples[0]
    shape = (3, size, size) if size is not None else _decode(first, None).shape
    decoder = _Decoder(first, size, shape)
    return Source(
        classes=len(train.classes),
        shape=shape,
        validation=max(1, len(train) // 10),
        train=partial(_read_split, train, decoder),
        test=partial(_read_split, test, decoder),
        tests=len(test),
    )


# ------------------------------------------------------------------- folders


def _list_images(folder: Path) -> ImageFolder:
    from torchvision.datasets import ImageFolder  # imported late: it is slow, and only this data set needs it

    try:
        return ImageFolder(str(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: must hold a folder of images for each class ({error.strerror or str(error).rstrip('.')}); "
            "add images, or remove what is no class"
        ) from error


# -------------------------------------------------------------------- images


@dataclass(frozen=True)
class _Decoder:
    """Decode images to one shape (3, H, W): resized to ``size`` or, if that is None, all like the image ``first``."""

    first: str
    size: int | None
    shape: tuple[int, int, int]

    def decode(self, images: ImageFolder) -> Pixels:
        x_NCHW = np.empty((len(images), *self.shape), np.uint8)

        def decode_row(row: int) -> None:
            path, _ = images.samples[row]
            x_CHW = _decode(path, self.size)
            if x_CHW.shape != self.shape:
                (_, height, width), (_, first_height, first_width) = x_CHW.shape, self.shape
                raise DataError(
                    f"{path}: all images must have one size, this is {width}×{height} pixels and {self.first} is "
                    f"{first_width}×{first_height}; resize them all by data.size: {min(first_height, first_width)}"
                )
            x_NCHW[row] = x_CHW

        terminal = Console(stderr=True)
        with ThreadPoolExecutor() as pool:  # threads suffice, because Pillow decodes without the interpreter's lock
            rows: Iterable[None] = pool.map(decode_row, range(len(images)))
            if terminal.is_terminal:
                title = f"decoding {Path(images.root).name} images"
                rows = track(rows, title, len(images), console=terminal, transient=True)
            for _ in rows:
                pass
        return x_NCHW


def _decode(path: str, size: int | None) -> Pixels:
    """Return the pixels at ``path``, 3×H×W."""
    from torchvision.transforms.functional import center_crop, resize  # imported late: it is slow

    try:
        with Image.open(path) as image:
            mode, rgb = image.mode, image.convert("RGB")
    except Exception as error:  # Pillow raises errors of a dozen types for damaged files
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{path}: must be a readable image ({reason}); fetch it again, or delete it") from error
    if mode in DEEP_MODES:
        raise DataError(f"{path}: must have 8 bits per channel, got Pillow's mode {mode}; convert it, or delete it")
    return np.asarray(center_crop(resize(rgb, [size]), [size, size]) if size else rgb).transpose(2, 0, 1)


# --------------------------------------------------------------------- cache


def _read_split(images: ImageFolder, decoder: _Decoder) -> Split:
    return Split(torch.from_numpy(_read_pixels(images, decoder)), torch.tensor(images.targets, dtype=torch.int64))


def _read_pixels(images: ImageFolder, decoder: _Decoder) -> Pixels:
    """Return images_NCHW, mapped from the cache if possible, else decoded."""
    try:
        file = cache_folder() / "image_folder" / f"{_digest(images, decoder.size)}.npy"
    except RuntimeError:  # this user has no home folder
        return decoder.decode(images)
    expected = (len(images), *decoder.shape)
    x_NCHW = _map_file(file, expected)
    if x_NCHW is not None:
        return x_NCHW
    decoded_NCHW = decoder.decode(images)
    with suppress(OSError), replace_atomically(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, decoded_NCHW)  # the cache is optional: it only saves time
    x_NCHW = _map_file(file, expected)
    return decoded_NCHW if x_NCHW is None else x_NCHW


def _digest(images: ImageFolder, size: int | None) -> str:
    """Return a name for the decoded images, from the files' names, sizes and times."""
    folder, files = Path(images.root), []
    try:
        for path, _ in images.samples:
            stat = os.stat(path)
            files.append((path[len(images.root) + 1 :], stat.st_size, stat.st_mtime_ns))
        digest = hashlib.sha256(json.dumps([PIL.__version__, folder.name, size, files]).encode())
        # Unpacking may give all files one time, and bitmaps have one length. One image per class distinguishes sets.
        first_of_class = {label: path for path, label in reversed(images.samples)}
        for path in first_of_class.values():
            digest.update(Path(path).read_bytes())
    except OSError as error:
        place = error.filename or folder
        raise DataError(f"{place}: cannot be read ({error.strerror}); restore it, or remove the image") from error
    return digest.hexdigest()[:32]


def _map_file(file: Path, expected: tuple[int, ...]) -> Pixels | None:
    """Return the images in ``file``, mapped into memory; None if it is missing, damaged or of another shape."""
    try:
        x_NCHW = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    return x_NCHW if (x_NCHW.shape, x_NCHW.dtype) == (expected, np.uint8) else None
