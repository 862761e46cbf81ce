"""The files in FOLDER/SPLIT/CLASS/…: hidden ones are left out, links are followed, and each real file counts once."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Names that file managers, archivers and network drives write into folders. Names with a leading dot are hidden too.
SYSTEM_NAMES = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
}

HIDDEN = "hidden"
LINKED_FILES = "by a second link to the same file"
LINKED_FOLDERS = "by a link to a folder that is read already"
LOOSE = "outside of class folders"
NO_IMAGES = "not images"


@dataclass(frozen=True)
class File:
    """A file of a class. ``path`` is SPLIT/CLASS/…/NAME."""

    path: str
    label: int
    status: os.stat_result

    @property
    def identity(self) -> tuple[object, ...]:
        """The same for all links to one real file."""
        device, inode = self.status.st_dev, self.status.st_ino
        return (device, inode) if inode else (self.path,)  # file systems without inodes report 0

    @property
    def state(self) -> tuple[object, ...]:
        """A different value after every change, because no program can set ``ctime``, the time of the last change."""
        status = self.status
        return (self.path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass
class SplitFiles:
    """The files of a split, class by class, none of them opened yet; classes and files are in the order of text.

    left_out: (reason, name) → number of files or folders. unreadable: (path, reason) of files and folders.
    """

    name: str
    classes: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def find_files(root: Path, name: str) -> SplitFiles:
    """Return the files in ROOT/NAME/CLASS/…, also those in nested folders. A folder's name is its class.

    Links are followed. A file that a class reaches by several paths counts once.
    """
    split = SplitFiles(name)
    for entry in _list(root, name, split):
        if _is_folder(entry):
            split.classes.append(entry.name)
        else:
            split.left_out[LOOSE, suffix_of(entry.name)] += 1
    for label, class_name in enumerate(split.classes):
        files = sorted(_walk(root, f"{name}/{class_name}", label, split, set()), key=_order)
        first_paths: dict[tuple[object, ...], File] = {}
        for file in files:
            first_paths.setdefault(file.identity, file)
        split.files += first_paths.values()
        split.left_out[LINKED_FILES, ""] += len(files) - len(first_paths)
    split.left_out = +split.left_out
    return split


def _order(file: File) -> tuple[str, str]:
    """Return the key of the order in which torchvision's ImageFolder lists files: by folder, then by name."""
    return os.path.split(file.path)


def _list(root: Path, folder: str, split: SplitFiles) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, by name."""
    try:
        with os.scandir(root / folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        split.unreadable.append((folder, error.strerror or str(error)))
        return []
    visible = [entry for entry in entries if not is_hidden(entry.name)]
    for entry in entries:
        if is_hidden(entry.name):
            split.left_out[HIDDEN, "._*" if entry.name.startswith("._") else entry.name] += 1
    return visible


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(root: Path, folder: str, label: int, split: SplitFiles, visited: set[tuple[int, int]]) -> Iterator[File]:
    """Yield the regular files of a class. A folder that was visited before, such as a parent, is not read again."""
    status = _status(root, folder, split)
    if status is None:
        return
    if (status.st_dev, status.st_ino) in visited and status.st_ino:
        split.left_out[LINKED_FOLDERS, ""] += 1
        return
    visited.add((status.st_dev, status.st_ino))
    for entry in sorted(_list(root, folder, split), key=os.DirEntry.is_symlink):  # links last: a real path counts
        path = f"{folder}/{entry.name}"
        if _is_folder(entry):
            yield from _walk(root, path, label, split, visited)
        elif status := _status(root, path, split):
            if stat.S_ISREG(status.st_mode):
                yield File(path, label, status)
            else:
                split.left_out[NO_IMAGES, "pipe or device"] += 1


def _status(root: Path, path: str, split: SplitFiles) -> os.stat_result | None:
    try:
        return os.stat(root / path)
    except OSError as error:
        reason = "broken link" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        split.unreadable.append((path, reason))
        return None


# --------------------------------------------------------------------- names


def is_hidden(name: str) -> bool:
    """Return True for names that begin with a dot and for SYSTEM_NAMES."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"


def printable(path: str) -> str:
    """Return a path as text in one line: control characters and bytes that are not UTF-8 become ``\\xff``."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def list_some(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names and the number of the others."""
    more = f", … and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(printable(name) for name in names[:limit]) + more


# ------------------------------------------------------------------ problems


def find_problems(train: SplitFiles, test: SplitFiles) -> list[str]:
    """Return what is wrong with the classes, and which files count for two classes or for both splits."""
    problems = [problem for split in (train, test) for problem in _similar_classes(split)]
    if any(split.name in dict(split.unreadable) for split in (train, test)):
        return problems  # nothing is known about the classes
    missing = [f"{split.name} has no class folders" for split in (train, test) if not split.classes]
    if missing:
        return [*problems, f"{' and '.join(missing)}; put the images of each class into a folder of its name"]
    problems += _different_classes(train, test)
    if len(train.classes) == 1 and train.classes == test.classes:
        problems.append(f"two classes or more are needed, got {printable(train.classes[0])} alone; add another")
    first_paths: dict[tuple[object, ...], File] = {}
    shared = []
    for file in (*train.files, *test.files):
        first = first_paths.setdefault(file.identity, file)
        if first is not file:
            shared.append(f"{first.path} = {file.path}")
    if shared:
        rule = "no file may count for two classes, or for training and testing"
        problems.append(f"{rule}, got {len(shared):,}: {list_some(shared)}; remove one of the links")
    return problems


def _similar_classes(split: SplitFiles) -> list[str]:
    """Return a problem per class that differs from another of its split only in case or in Unicode normalization."""
    first_names: dict[str, str] = {}
    problems = []
    for name in split.classes:
        first = first_names.setdefault(_fold(name), name)
        if first != name:
            problems.append(f"{split.name}: {_differ_in_form(first, name)}; merge or rename them")
    return problems


def _different_classes(train: SplitFiles, test: SplitFiles) -> list[str]:
    pairs = ((train, set(train.classes) - set(test.classes)), (test, set(test.classes) - set(train.classes)))
    only = [f"only in {split.name}: {list_some(sorted(names))}" for split, names in pairs if names]
    if not only:
        return []
    in_test = {_fold(name): name for name in pairs[1][1]}
    similar = [_differ_in_form(name, in_test[_fold(name)]) for name in sorted(pairs[0][1]) if _fold(name) in in_test]
    details = "; ".join([*only, *similar[:3]])
    return [f"train and test must hold the same classes, got {details}; add, rename or remove folders"]


def _differ_in_form(first: str, second: str) -> str:
    return f"{first!a} and {second!a} differ only in case or Unicode normalization"


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
