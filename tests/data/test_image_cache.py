"""The cache of decoded images: read instead of them while they are the same, made anew where not, never in the way."""

import os
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tune_interpreg.data import dataset as data
from tune_interpreg.data import image_folder
from tune_interpreg.data.image_folder import IMAGES_A_TASK, MANY
from tune_interpreg.study import config


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder; and the data set itself stands for its entry point."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data.registry, "resolve", lambda group, name: image_folder.image_folder)
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Bitmaps, which all have one length: four training and two test images a class, of 6×4 pixels of noise."""
    return written(tmp_path / "images", seed=0)


def written(root: Path, *, seed: int) -> Path:
    random = np.random.default_rng(seed)
    for split, images in (("train", 4), ("test", 2)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                noise_HWC = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
                Image.fromarray(noise_HWC).save(root / split / name / f"{number}.bmp")
    return root


def train_of(root: Path, size: int | None = None) -> torch.Tensor:
    return image_folder.image_folder(root, size=size).train().x_NCHW


def cached(home: Path) -> list[Path]:
    """All that is in the cache, hidden files too."""
    folder = home / ".cache" / "tune-interpreg" / "image_folder"
    return sorted(folder.iterdir()) if folder.exists() else []


def set_time(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


def spoil(path: Path) -> None:
    """Make an image unreadable, with its length and its time unchanged."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    set_time(path, before.st_mtime_ns)


def test_images_are_decoded_once(root: Path, home: Path) -> None:
    """The last image of a class may be spoilt afterwards; the cache holds one file, of whole images, and no rest."""
    before = train_of(root).clone()
    spoil(root / "train" / "bee" / "3.bmp")
    assert torch.equal(train_of(root), before)
    (file,) = cached(home)
    assert np.array_equal(np.load(file), before.numpy())


def test_splits_and_sizes_have_files_of_their_own(root: Path, home: Path) -> None:
    source = image_folder.image_folder(root)
    assert not cached(home), "nothing is decoded before it is asked for"
    source.train()
    assert len(cached(home)) == 1
    source.test()
    assert len(cached(home)) == 2
    assert train_of(root, 4).shape == (8, 3, 4, 4)
    assert train_of(root).shape == (8, 3, 4, 6)
    assert len(cached(home)) == 3


def test_a_copy_elsewhere_with_the_same_times_shares_the_file(root: Path, tmp_path: Path, home: Path) -> None:
    before = train_of(root).clone()
    root.rename(tmp_path / "moved")
    spoil(tmp_path / "moved" / "train" / "bee" / "3.bmp")
    assert torch.equal(train_of(tmp_path / "moved"), before)
    assert len(cached(home)) == 1


@pytest.mark.parametrize("change", ["time", "length", "name", "removed"])
def test_a_changed_image_is_decoded_anew(root: Path, change: str) -> None:
    """The last image of the last class turns black, and one thing about its file tells."""
    before, last = train_of(root).clone(), root / "train" / "bee" / "3.bmp"
    stat = last.stat()
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
    now = train_of(root)
    assert torch.equal(now[:7], before[:7])
    assert len(now) == 7 if change == "removed" else (now[7] == 0).all()


def test_sets_of_the_same_names_lengths_and_times_are_told_apart(root: Path, tmp_path: Path) -> None:
    """As bitmaps are that an archive gave one time to."""
    other = written(tmp_path / "other", seed=1)
    for file in [*root.rglob("*.bmp"), *other.rglob("*.bmp")]:
        set_time(file, 0)
    assert not torch.equal(train_of(root), train_of(other))


def as_archive(file: Path) -> None:
    x_NCHW = np.load(file)
    with file.open("wb") as stream:
        np.savez(stream, x_NCHW)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"rubbish" * 100),
        lambda file: os.truncate(file, file.stat().st_size - 1),
        lambda file: os.truncate(file, 20),
        lambda file: np.save(file, np.load(file)[1:]),
        lambda file: np.save(file, np.load(file).astype(np.float32)),
        lambda file: np.save(file, np.array([{"an": "object"}]), allow_pickle=True),
        as_archive,
    ],
    ids=["empty", "rubbish", "short", "header", "fewer", "floats", "pickle", "archive"],
)
def test_a_damaged_or_foreign_file_is_made_anew(root: Path, home: Path, damage: object) -> None:
    assert callable(damage)
    before = train_of(root).clone()
    (file,) = cached(home)
    damage(file)
    assert torch.equal(train_of(root), before)
    assert cached(home) == [file]
    assert np.array_equal(np.load(file), before.numpy())


def test_a_folder_in_the_place_of_the_file_is_worked_around(root: Path, home: Path) -> None:
    before = train_of(root).clone()
    (file,) = cached(home)
    file.unlink()
    file.mkdir()
    assert torch.equal(train_of(root), before)


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, home: Path) -> None:
    home.mkdir()
    (home / ".cache").write_text("a file where the folder should be")
    before = train_of(root)
    assert before.shape == (8, 3, 4, 6)
    assert torch.equal(train_of(root), before)


def test_a_user_without_a_home_does_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert train_of(root).shape == (8, 3, 4, 6)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="whether a mapping sees later writes is Linux's rule")
def test_images_are_mapped_and_not_written_through(root: Path, home: Path) -> None:
    """What others see of the file is seen; what is written to the tensor stays its own."""
    x_NCHW = train_of(root)
    (file,) = cached(home)
    content = file.read_bytes()
    changed = (x_NCHW[-1, -1, -1, -1].item() + 1) % 256
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([changed]))
    assert x_NCHW[-1, -1, -1, -1] == changed
    x_NCHW.zero_()
    assert file.read_bytes() == content[:-1] + bytes([changed])


def test_several_workers_may_start_at_once(root: Path, home: Path) -> None:
    results: list[torch.Tensor] = []
    workers = [threading.Thread(target=lambda: results.append(train_of(root))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(torch.equal(one, results[0]) for one in results)
    assert len(cached(home)) == 1


# ------------------------------------------------------------------ progress


def many(root: Path) -> Path:
    """Links to one image make a thousand or two."""
    for number in range(MANY + IMAGES_A_TASK):
        (root / "train" / "ant" / f"n{number}.bmp").symlink_to(root / "train" / "ant" / "0.bmp")
    return root


def test_nothing_is_printed_where_no_terminal_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_of(many(root))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("is_many", [True, False])
def test_a_terminal_shows_how_far_many_images_are(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_many: bool
) -> None:
    ours, theirs = os.openpty()
    told: list[bytes] = []
    reader = threading.Thread(target=lambda: told.extend(said(ours)))
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        train_of(many(root) if is_many else root)
        terminal.write("the end")
    reader.join()
    os.close(ours)
    assert (b"decoding train images" in b"".join(told)) == is_many
    assert b"".join(told).endswith(b"the end")
    assert capsys.readouterr().out == ""


def said(terminal: int) -> Iterator[bytes]:
    """What is written to a terminal, until its other end is closed."""
    while True:
        try:
            content = os.read(terminal, 4096)
        except OSError:  # Linux says so at the end
            return
        if not content:
            return
        yield content


# ---------------------------------------------------------------- real images

TARBALL = Path(os.environ.get("TUNE_INTERPREG_DATA", ""), "cifar10-jpeg.tar.gz")


@pytest.mark.skipif(not TARBALL.is_file(), reason="TUNE_INTERPREG_DATA names no folder with cifar10-jpeg.tar.gz")
def test_a_part_of_cifar10_as_jpegs(tmp_path: Path) -> None:
    """The first twelve training and three test images of each class, in both of the ways to their size."""
    wanted, taken = {"train": 12, "test": 3}, Counter[str]()
    with tarfile.open(TARBALL) as archive:
        for member in archive:
            folder = str(Path(member.name).parent)
            if member.isfile() and taken[folder] < wanted[folder.split("/")[0]]:
                archive.extract(member, tmp_path / "cifar", filter="data")
                taken[folder] += 1
            if taken.total() == 150:
                break
    for options, shape in (({}, (3, 32, 32)), ({"size": 24}, (3, 24, 24))):
        given = config.Data.model_validate({"name": "image_folder", "root": str(tmp_path / "cifar"), **options})
        dataset, test = data.load(given), data.load_test(given)
        assert (dataset.classes, dataset.shape) == (10, shape)
        assert (dataset.train.y_N.bincount() + dataset.validation.y_N.bincount()).tolist() == [12] * 10
        assert test.y_N.bincount().tolist() == [3] * 10
        mean, std = data.pixels(dataset.train.x_NCHW).mean(), data.pixels(dataset.train.x_NCHW).std()
        assert mean.item() == pytest.approx(0.47, abs=0.06), "the mean of all CIFAR-10 is .473"
        assert std.item() == pytest.approx(0.25, abs=0.04), "its standard deviation is .251"
