"""Any folder of images, <root>/train/CLASS/… and <root>/test/CLASS/…: decoded once, then mapped into memory.

Legend: N images, C·H·W one image. C is always 3 (RGB), even if all images are grey.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch

from tune_interpreg.data.dataset import DataError, Source, Split
from tune_interpreg.data.image_decoding import ImageProblem, Pixels, decode
from tune_interpreg.data.image_files import (
    NO_IMAGES,
    File,
    SplitFiles,
    find_files,
    is_hidden,
    list_some,
    printable,
)
from tune_interpreg.data.image_inspection import (
    VERSION,
    Inspection,
    describe_problem,
    digest_images,
    find_damage,
    inspect,
    list_counts,
    unreadable_error,
    work_through,
)
from tune_interpreg.data.shipped import cache_folder
from tune_interpreg.store.files import replace_atomically

SPLITS = ("train", "test")


def image_folder(root: Path | None, *, size: int | None = None) -> Source:
    """The images in <root>/train/CLASS and <root>/test/CLASS, 3×H×W; a tenth of the training images validates.

    A folder's name is its class, in the order of text (10 before 2). Images of nested folders belong to the class. See
    ``tune-interpreg guide own-data`` for the files that are left out and for the pixels. Decoded images are cached in
    ~/.cache/tune-interpreg/image_folder under the checksum of their files. Later runs map them, and all processes of a
    machine share them.

    Args:
        root: the folder that holds train and test.
        size: H and W in pixels. The central square of each image is resized to it. null: all images must have one
            size, which is kept.

    Raises:
        DataError: with all problems of the folders and files. Damage inside of an image is found when it is read.
    """
    rule = "a folder that holds train/CLASS/… and test/CLASS/…"
    if root is None:
        raise DataError(f"image_folder reads {rule}, got none; pass it by --data-root", "root")
    missing = [name for name in SPLITS if not os.path.isdir(root / name)]
    if missing:
        remedy = f"rename or link {'a folder' if len(missing) == 1 else 'folders'}, or correct --data-root"
        place = f"{printable(str(root))} lacks {' and '.join(missing)}"
        raise DataError(f"must be {rule}, {place} and holds {_list_entries(root)}; {remedy}", "root")
    if size is not None and size < 1:
        raise DataError(f"takes a whole number of at least 1, got {size}; correct it or drop it", "size")
    splits = {name: find_files(root, name) for name in SPLITS}
    inspection = inspect(root, list(splits.values()), size)
    images = {
        name: [file for file in split.files if file.path not in inspection.others] for name, split in splits.items()
    }
    reader = _Reader(root, size, images, inspection)
    return Source(
        classes=len(splits["train"].classes),
        shape=inspection.shape,
        validation=max(1, len(images["train"]) // 10),
        train=partial(reader.read, "train"),
        test=partial(reader.read, "test"),
        tests=len(images["test"]),
        description=_describe(root, splits, images, inspection),
    )


def _list_entries(root: Path) -> str:
    """Return the names in a folder that are not hidden."""
    try:
        names = sorted(name for name in os.listdir(root) if not is_hidden(name))
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"
    return list_some(names) or "nothing"


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class _Reader:
    """Read the images of a split: from the cache if they were decoded before, else from their files."""

    root: Path
    size: int | None
    images: dict[str, list[File]]
    inspection: Inspection

    def read(self, split: str) -> Split:
        labels = torch.tensor([file.label for file in self.images[split]], dtype=torch.int64)
        return Split(torch.from_numpy(self._read_pixels(split)), labels)

    def _read_pixels(self, split: str) -> Pixels:
        """Return images_NCHW, mapped from the cache if possible, else decoded."""
        content = [VERSION, PIL.__version__, self.size, self.inspection.digests[split]]
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
        try:
            file = cache_folder() / "image_folder" / f"{name}.npy"
        except RuntimeError:  # this user has no home folder
            return self._decode(split)
        expected = (len(self.images[split]), *self.inspection.shape)
        x_NCHW = _map_file(file, expected)
        if x_NCHW is not None:
            return x_NCHW
        decoded_NCHW = self._decode(split)
        with suppress(OSError), replace_atomically(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, decoded_NCHW)  # the cache is optional: it only saves time
        x_NCHW = _map_file(file, expected)
        return decoded_NCHW if x_NCHW is None else x_NCHW

    def _decode(self, split: str) -> Pixels:
        files = self.images[split]
        x_NCHW = np.empty((len(files), *self.inspection.shape), np.uint8)

        def decode_row(row: int) -> tuple[str, str]:
            """Return the checksum of the file's content, and its problem."""
            try:
                content = (self.root / files[row].path).read_bytes()
                x_CHW = decode(content, self.size)
            except (OSError, ImageProblem) as error:
                return "", describe_problem(error)
            if x_CHW.shape != self.inspection.shape:
                return "", f"{x_CHW.shape[2]}×{x_CHW.shape[1]} pixels, which its header does not say"
            x_NCHW[row] = x_CHW
            return hashlib.sha256(content).hexdigest(), ""

        rows = list(work_through(f"decoding {split} images", decode_row, range(len(files))))
        unreadable = [(file.path, problem) for file, (_, problem) in zip(files, rows, strict=True) if problem]
        if unreadable:
            others = [file for name in SPLITS if name != split for file in self.images[name]]
            raise unreadable_error(self.root, [*unreadable, *find_damage(self.root, others, self.size)])
        digest = digest_images((file.path, checksum) for file, (checksum, _) in zip(files, rows, strict=True))
        if digest != self.inspection.digests[split]:
            raise DataError(f"{printable(str(self.root / split))}: images changed while they were read; run again")
        return x_NCHW


def _map_file(file: Path, expected: tuple[int, ...]) -> Pixels | None:
    """Return the images in ``file``, mapped into memory; None if it is missing, damaged or of another shape."""
    try:
        x_NCHW = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    return x_NCHW if (x_NCHW.shape, x_NCHW.dtype) == (expected, np.uint8) else None


# -------------------------------------------------------------- description


def _describe(root: Path, splits: dict[str, SplitFiles], images: dict[str, list[File]], inspection: Inspection) -> str:
    """Return the line that says what is read, what is left out, and why."""
    classes = splits["train"].classes
    parts = [f"{len(classes)} classes", *(f"{name} {_count(files)}" for name, files in images.items())]
    parts += inspection.notes
    if all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
        parts.append(f"classes in the order of text: {list_some(classes, 5)}")
    reasons: dict[str, Counter[str]] = {}
    for (reason, name), count in sum((split.left_out for split in splits.values()), Counter()).items():
        reasons.setdefault(reason, Counter())[name] += count
    for suffix in inspection.others.values():
        reasons.setdefault(NO_IMAGES, Counter())[suffix] += 1
    if reasons:
        parts.append(f"left out: {', '.join(_count_reason(*item) for item in sorted(reasons.items()))}")
    with suppress(OSError):
        unread = sorted(name for name in os.listdir(root) if name not in SPLITS and not is_hidden(name))
        parts += [f"not read: {list_some(unread, 5)}"] if unread else []
    return f"images in {printable(str(root))}: {'; '.join(parts)}"


def _count(files: list[File]) -> str:
    """Return the number of images, and per class: 60 (30 per class), or 50 (20–30 per class)."""
    counts = sorted(Counter(file.label for file in files).values())
    low, high = counts[0], counts[-1]
    return f"{len(files):,} ({low:,} per class)" if low == high else f"{len(files):,} ({low:,}–{high:,} per class)"


def _count_reason(reason: str, names: Counter[str]) -> str:
    """Return the number of files that are left out for a reason, and their names or suffixes."""
    details = list_counts(names, 3)
    return f"{names.total():,} {reason} ({details})" if details else f"{names.total():,} {reason}"
