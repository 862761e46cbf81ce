"""Open every file of both splits once: which are images, what they have in common, their checksums, all problems.

The result is cached under the state of all files (path, inode, size, times of change of content and of file), so later
runs and workers only look up the files' states. A file that changes gets another ``ctime``, which no program can set,
even if its size and its modification time stay the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import PIL
from rich.console import Console
from rich.progress import track

from tune_interpreg.data.dataset import DataError
from tune_interpreg.data.image_decoding import Header, ImageProblem, decode, read_header
from tune_interpreg.data.image_files import File, SplitFiles, find_problems, list_some, printable, suffix_of
from tune_interpreg.data.shipped import cache_folder
from tune_interpreg.store.files import Damaged, read_checked, replace_atomically, with_checksum

Work = TypeVar("Work")
Result = TypeVar("Result")

#: Increased whenever the code below or in ``image_decoding`` gives other results for the same files.
VERSION = 1


@dataclass(frozen=True)
class Inspection:
    """Properties of the images of both splits.

    shape: (3, H, W) of the decoded images. others: path → suffix of each file that is no image. digests: split →
    SHA-256 over the paths and contents of its images. notes: properties in words.
    """

    shape: tuple[int, int, int]
    others: dict[str, str]
    digests: dict[str, str]
    notes: list[str]


@dataclass(frozen=True)
class _Image:
    """An image that was opened, but not decoded. ``checksum`` is the SHA-256 of its file."""

    file: File
    checksum: str
    header: Header

    @property
    def split(self) -> str:
        return self.file.path.partition("/")[0]


def inspect(root: Path, splits: Sequence[SplitFiles], size: int | None) -> Inspection:
    """Return the inspection of the splits from the cache if no file changed, else open every file.

    Raises ``DataError`` with all problems of both splits. For this all images are decoded, if there is any problem.
    """
    state = [[split.name, split.classes, [file.state for file in split.files]] for split in splits]
    key = hashlib.sha256(json.dumps([VERSION, PIL.__version__, size, state]).encode()).hexdigest()[:32]
    cache = None
    with suppress(RuntimeError):  # a user without a home folder has no cache
        cache = cache_folder() / "image_folder" / f"{key}.json"
    is_sound = not find_problems(*splits) and not any(split.unreadable for split in splits)
    if cache is not None and is_sound:
        with suppress(Damaged, OSError, KeyError, TypeError):
            content = read_checked(cache)
            return Inspection(tuple(content["shape"]), content["others"], content["digests"], content["notes"])
    _wait_for_clock([file for split in splits for file in split.files])
    inspection = _open_all(root, splits, size)
    if cache is not None:
        with suppress(OSError), replace_atomically(cache) as temporary:  # the cache only saves time
            temporary.write_text(json.dumps(with_checksum(asdict(inspection))), encoding="ascii")
    return inspection


def _wait_for_clock(files: Sequence[File]) -> None:
    """Wait until the clock of the file system has moved past the newest change.

    A file that changes twice within one tick would have one ``ctime`` for both contents. A tick is 10 ms at most, but 1
    or 2 s on file systems that store whole seconds.
    """
    times = [file.status.st_ctime_ns for file in files]
    if times:
        tick = 0.05 if any(nanoseconds % 10**9 for nanoseconds in times) else 2.0
        time.sleep(min(tick, max(0.0, max(times) / 1e9 + tick - time.time())))


# ------------------------------------------------------------------ opening


def _open_all(root: Path, splits: Sequence[SplitFiles], size: int | None) -> Inspection:
    def open_file(file: File) -> _Image | str | None:
        """Return the image, why it cannot be read, or None for a file that is no image."""
        try:
            content = (root / file.path).read_bytes()
            header = read_header(os.path.basename(file.path), content)
        except (OSError, ImageProblem) as error:
            return describe_problem(error)
        return _Image(file, hashlib.sha256(content).hexdigest(), header) if header else None

    files = [file for split in splits for file in split.files]
    results = list(zip(files, work_through("reading images", open_file, files), strict=True))
    images = [result for _, result in results if isinstance(result, _Image)]
    unreadable = [problem for split in splits for problem in split.unreadable]
    unreadable += [(file.path, result) for file, result in results if isinstance(result, str)]
    problems = find_problems(*splits)
    for split in splits:
        named = {path.split("/")[1] for path, _ in unreadable if path.startswith(f"{split.name}/")}
        filled = {split.classes[image.file.label] for image in images if image.split == split.name}
        if empty := [name for name in split.classes if name not in filled | named]:
            remedy = "add images, or remove what is no class"
            problems.append(f"{split.name}: classes without images: {list_some(empty)}; {remedy}")
    if size is None:
        problems += _different_sizes(images)
    if problems or unreadable:
        unreadable += find_damage(root, [image.file for image in images], size)
        raise DataError(f"{printable(str(root))}: {'; '.join([*problems, *_list_unreadable(unreadable)])}")
    first = images[0].header
    contents = {
        split.name: [(image.file.path, image.checksum) for image in images if image.split == split.name]
        for split in splits
    }
    return Inspection(
        shape=(3, first.height, first.width) if size is None else (3, size, size),
        others={file.path: suffix_of(file.path) for file, result in results if result is None},
        digests={name: digest_images(content) for name, content in contents.items()},
        notes=_describe(images, size),
    )


def digest_images(images: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 over (path, checksum) of images."""
    return hashlib.sha256(json.dumps(list(images)).encode()).hexdigest()


def work_through(title: str, call: Callable[[Work], Result], items: Sequence[Work]) -> Iterator[Result]:
    """Yield the call's result for each item, from threads, with a progress bar in a terminal.

    Threads suffice, because hashing and decoding run without the interpreter's lock.
    """
    terminal = Console(stderr=True)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata
        results: Iterable[Result] = pool.map(call, items)
        if terminal.is_terminal:
            results = track(results, title, len(items), console=terminal, transient=True)
        yield from results


# ----------------------------------------------------------------- problems


def describe_problem(error: OSError | ImageProblem) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def find_damage(root: Path, files: Sequence[File], size: int | None) -> list[tuple[str, str]]:
    """Decode images and return (path, reason) for those that are damaged."""

    def damage(file: File) -> str:
        try:
            decode((root / file.path).read_bytes(), size)
        except (OSError, ImageProblem) as error:
            return describe_problem(error)
        return ""

    reasons = zip(files, work_through("checking images", damage, files), strict=True)
    return [(file.path, reason) for file, reason in reasons if reason]


def unreadable_error(root: Path, unreadable: Sequence[tuple[str, str]]) -> DataError:
    return DataError(f"{printable(str(root))}: {'; '.join(_list_unreadable(unreadable))}")


def _list_unreadable(unreadable: Sequence[tuple[str, str]]) -> list[str]:
    """Return the problem that names the first ten unreadable files by reason; none if there are none."""
    if not unreadable:
        return []
    paths: dict[str, list[str]] = {}
    for path, reason in sorted(unreadable)[:10]:
        paths.setdefault(reason, []).append(path)
    named = ", ".join(f"{list_some(group)} ({reason})" for reason, group in paths.items())
    more = f", … and {len(unreadable) - 10:,} more" if len(unreadable) > 10 else ""
    count = "1 file or folder" if len(unreadable) == 1 else f"{len(unreadable):,} files or folders"
    return [f"{count} cannot be read: {named}{more}; fetch, convert or delete them"]


def _different_sizes(images: Sequence[_Image]) -> list[str]:
    sizes: dict[tuple[int, int], list[str]] = {}
    for image in images:
        sizes.setdefault((image.header.width, image.header.height), []).append(image.file.path)
    if len(sizes) < 2:
        return []
    common_first = sorted(sizes, key=lambda size: -len(sizes[size]))
    named = [f"{size[0]}×{size[1]} ({len(sizes[size]):,}, such as {sizes[size][0]})" for size in common_first]
    remedy = f"resize them all by data.size: {min(common_first[0])}"
    return [f"all images must have one size, got {list_some(named, 5)}; {remedy}"]


# --------------------------------------------------------------- properties


def _describe(images: Sequence[_Image], size: int | None) -> list[str]:
    headers = [image.header for image in images]
    sizes = sorted({(header.width, header.height) for header in headers}, key=lambda pair: (pair[0] * pair[1], pair))
    first, last = (f"{width}×{height}" for width, height in (sizes[0], sizes[-1]))
    note = f"{first} pixels" if len(sizes) == 1 else f"{first} to {last} pixels ({len(sizes):,} sizes)"
    if size is not None and sizes != [(size, size)]:
        note += f", cut to their central square and resized to {size}×{size}"
    small = sum(min(header.width, header.height) < size for header in headers) if size is not None else 0
    colors = list_counts(Counter(header.color for header in headers))
    notes = [note, f"{small:,} smaller than {size} are enlarged" if small else ""]
    notes += [list_counts(Counter(header.format for header in headers))]
    notes += [colors if colors == "RGB" else f"{colors}, read as RGB"]
    for count, words in (
        (sum(header.is_rotated for header in headers), "turned upright (EXIF)"),
        (sum(header.is_transparent for header in headers), "with transparency, laid on white"),
        (sum(header.frames > 1 for header in headers), "of several frames, the first is read"),
    ):
        notes.append(f"{count:,} {words}" if count else "")
    return [note for note in [*notes, *_describe_copies(images)] if note]


def _describe_copies(images: Sequence[_Image]) -> list[str]:
    """Return notes on files of equal content in both splits, and in two classes of a split."""
    train = {image.checksum for image in images if image.split == "train"}
    in_both = sum(image.checksum in train for image in images if image.split == "test")
    labels: dict[str, set[int]] = {}
    for image in images:
        labels.setdefault(image.checksum, set()).add(image.file.label)
    ambiguous = sum(len(classes) > 1 for classes in labels.values())
    return [
        f"caution: copies of training images among the test images: {in_both:,}" if in_both else "",
        f"caution: images with copies in other classes: {ambiguous:,}" if ambiguous else "",
    ]


def list_counts(counts: Counter[str], limit: int = 4) -> str:
    """Return names with their counts, the most frequent first; a single name without a count."""
    if len(counts) == 1:
        return printable(next(iter(counts)))
    return list_some([f"{name} {count:,}" for name, count in counts.most_common()], limit)
