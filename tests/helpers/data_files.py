"""Files of data sets that tests write, damage and look for."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tune_interpreg.data.dataset import DataError, Split
from tune_interpreg.data.shipped import TEST_FILES, TRAIN_FILES


def idx(sizes: tuple[int, ...], values: bytes) -> bytes:
    """Return the content of an IDX file."""
    return struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + values


def write_mnist(root: Path) -> Path:
    """Write 40 training and 20 test images of noise in MNIST's format and return ``root``."""
    folder, random = root / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for (images, labels), size in ((TRAIN_FILES, 40), (TEST_FILES, 20)):
        (folder / images).write_bytes(idx((size, 28, 28), random.bytes(size * 28 * 28)))
        (folder / labels).write_bytes(idx((size,), bytes(n % 10 for n in range(size))))
    return root


def write_images(root: Path, classes: tuple[str, ...], ending: str, seed: int = 0) -> Path:
    """Write four training and two test images per class, 6×4 pixels of noise, and return ``root``."""
    random = np.random.default_rng(seed)
    for split, images in (("train", 4), ("test", 2)):
        for name in classes:
            for number in range(images):
                noise_HWC = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
                save_image(root / split / name / f"{number}.{ending}", noise_HWC)
    return root


def save_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows(split: Split) -> set[bytes]:
    """Return the images of a split as bytes."""
    return {image.numpy().tobytes() for image in split.x_NCHW}


def data_error(call: Callable[[], object]) -> str:
    """Return the message, of one line, of the ``DataError`` that the call raises."""
    with pytest.raises(DataError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)
