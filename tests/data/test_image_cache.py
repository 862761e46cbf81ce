"""The cache of decoded images: reused while the files are the same, rebuilt when they change, optional."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.data_files import write_images
from PIL import Image

from tune_interpreg.data.image_folder import image_folder
from tune_interpreg.store.files import read_checked, with_checksum

CLASSES = ("ant", "bee")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Bitmaps, because they all have one length."""
    return write_images(tmp_path / "images", CLASSES, "bmp")


def train_images(root: Path, size: int | None = None) -> torch.Tensor:
    return image_folder(root, size=size).train().x_NCHW


def cached(home: Path) -> list[Path]:
    """Return all files in the cache, including hidden ones."""
    folder = home / ".cache" / "tune-interpreg" / "image_folder"
    return sorted(folder.iterdir()) if folder.exists() else []


def cached_pixels(home: Path) -> list[Path]:
    return [file for file in cached(home) if file.suffix == ".npy"]


def set_time(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


def test_images_are_decoded_once(root: Path, tmp_path: Path, home: Path) -> None:
    """The cached pixels serve a folder that moved or was copied: black ones in their place show that they are read."""
    before = train_images(root).clone()
    (file,) = cached_pixels(home)
    assert np.array_equal(np.load(file), before.numpy())
    np.save(file, np.zeros_like(before))
    root.rename(tmp_path / "moved")
    assert not train_images(tmp_path / "moved").any()
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    assert not train_images(tmp_path / "copy").any()
    assert cached_pixels(home) == [file]


def test_unchanged_files_are_not_opened_again(root: Path, home: Path) -> None:
    """A sound inspection of other content in the cache shows that it is read."""
    before = image_folder(root)
    (file,) = cached(home)
    content = read_checked(file)
    file.write_text(json.dumps(with_checksum(content | {"notes": ["from the cache"]})))
    source = image_folder(root)
    assert "from the cache" in source.description
    assert (source.shape, source.tests, source.classes) == (before.shape, before.tests, before.classes)


def test_each_split_and_size_has_its_own_file(root: Path, home: Path) -> None:
    source, counts = image_folder(root), []
    for read in (lambda: None, source.train, source.test, lambda: train_images(root, 4), source.train):
        read()
        counts.append(len(cached_pixels(home)))
    assert counts == [0, 1, 2, 3, 3], "nothing is decoded before it is needed"


@pytest.mark.parametrize("change", ["content", "time", "length", "name", "removed", "replaced"])
def test_a_changed_image_is_decoded_again(root: Path, change: str) -> None:
    """The last image turns black. Its file keeps its length and its time, or one of them changes, or it is replaced."""
    before, last = train_images(root).clone(), root / "train" / "bee" / "3.bmp"
    stat = last.stat()
    if change == "replaced":
        last.unlink()
    Image.new("RGB", (6, 4)).save(last)
    assert last.stat().st_size == stat.st_size
    set_time(last, stat.st_mtime_ns + (1 if change == "time" else 0))
    if change == "length":
        last.write_bytes(last.read_bytes() + b"\0")
        set_time(last, stat.st_mtime_ns)
    if change == "name":
        last.rename(last.with_name("4.bmp"))
    if change == "removed":
        last.unlink()
    now = train_images(root)
    assert torch.equal(now[:7], before[:7])
    assert len(now) == 7 if change == "removed" else not now[7].any()


def test_folders_of_the_same_names_lengths_and_times_are_distinguished(root: Path, tmp_path: Path) -> None:
    """Unpacked archives may have one time for all files."""
    other = write_images(tmp_path / "other", CLASSES, "bmp", seed=1)
    for file in [*root.rglob("*.bmp"), *other.rglob("*.bmp")]:
        set_time(file, 0)
    assert not torch.equal(train_images(root), train_images(other))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"rubbish" * 100),
        lambda file: os.truncate(file, file.stat().st_size - 1),
        lambda file: np.save(file, np.load(file)[1:]),
        lambda file: np.save(file, np.load(file).astype(np.float32)),
        lambda file: np.save(file, np.array([{"an": "object"}]), allow_pickle=True),
    ],
    ids=["empty", "rubbish", "short", "fewer", "floats", "pickle"],
)
def test_a_damaged_or_foreign_file_is_rebuilt(root: Path, home: Path, damage: Callable[[Path], object]) -> None:
    before = train_images(root).clone()
    (file,), files = cached_pixels(home), cached(home)
    damage(file)
    assert torch.equal(train_images(root), before)
    assert cached(home) == files
    assert np.array_equal(np.load(file), before.numpy())


@pytest.mark.parametrize("content", ["", "{}", '{"shape": 3}', "[1]", "\0"])
def test_a_damaged_inspection_is_made_again(root: Path, home: Path, content: str) -> None:
    before = image_folder(root)
    (file,) = cached(home)
    whole = file.read_text()
    file.write_text(content)
    after = image_folder(root)
    assert (after.shape, after.description, after.tests) == (before.shape, before.description, before.tests)
    assert file.read_text() == whole


def test_an_unusable_cache_is_ignored(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in place of the file, a file in place of the folder, a user without a home."""
    before = train_images(root).clone()
    for file in cached(home):
        file.unlink()
        file.mkdir()
    assert torch.equal(train_images(root), before)
    (home / ".cache").rename(home / "moved")
    (home / ".cache").write_text("a file")
    assert torch.equal(train_images(root), before)
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError))
    assert torch.equal(train_images(root), before)


def test_writes_to_mapped_images_stay_private(root: Path, home: Path) -> None:
    train_images(root)
    (file,) = cached_pixels(home)
    content = file.read_bytes()
    train_images(root).zero_()
    assert file.read_bytes() == content


def test_several_workers_may_start_at_once(root: Path, home: Path) -> None:
    with ThreadPoolExecutor(4) as workers:
        results = list(workers.map(train_images, [root] * 4))
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(cached(home)) == 2, "the inspection and the pixels"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_in_a_terminal_only(root: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    train_images(root)
    assert ("decoding train images" in stream.getvalue()) == terminal
