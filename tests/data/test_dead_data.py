"""Data that is damaged or gone between the driver's look at it and a worker's: the file and the remedy are named."""

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.base.job import Job
from tune_interpreg.cluster import worker
from tune_interpreg.data import image_folder
from tune_interpreg.data import shipped as datasets
from tune_interpreg.data.dataset import DataError, load_dataset
from tune_interpreg.store.store import Store
from tune_interpreg.study import config
from tune_interpreg.study.items import Item, Recipe

IMAGES, LABELS = datasets.TRAIN_FILES


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache but the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A root with 40 training and 20 test images in MNIST's format."""
    root = tmp_path / "data"
    for (images, labels), size in ((datasets.TRAIN_FILES, 40), (datasets.TEST_FILES, 20)):
        write(root, images, struct.pack(">4B3I", 0, 0, 8, 3, size, 28, 28) + bytes(range(size)) * 28 * 28)
        write(root, labels, struct.pack(">4BI", 0, 0, 8, 1, size) + bytes(n % 10 for n in range(size)))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root with three training images and one test image of each of two classes."""
    for place in ("train/ant/0", "train/ant/1", "train/ant/2", "train/bee/0", "train/bee/1", "train/bee/2"):
        paint(tmp_path / "data" / f"{place}.png")
    for place in ("test/ant/0", "test/bee/0"):
        paint(tmp_path / "data" / f"{place}.png")
    return tmp_path / "data"


def write(root: Path, file: str, content: bytes) -> Path:
    path = root / "MNIST" / "raw" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def paint(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def load_mnist(root: Path) -> str:
    return message(lambda: load_dataset(config.Data(name="mnist", root=str(root), validation=10)))


# ------------------------------------------------------------------------ IDX
@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (IMAGES, struct.pack(">4B3I", 0, 0, 8, 3, 40, 14, 14) + bytes(40 * 196), "(1, 28, 28), got (1, 14, 14)"),
        (IMAGES, struct.pack(">4BI", 0, 0, 8, 1, 40) + bytes(40), "begins with 00 00 08 03 and 3 sizes"),
        (IMAGES, struct.pack(">4B3I", 0, 0, 8, 3, 40, 28, 28) + bytes(999), "asks for 31,376 bytes, got 1,015"),
        (IMAGES, gzip.compress(bytes(5000), mtime=0), "begins with 00 00 08 03 and 3 sizes, got 1f 8b"),
        (IMAGES, b"", "got nothing"),
        (LABELS, struct.pack(">4BI", 0, 0, 8, 1, 39) + bytes(39), f"the 40 images in {IMAGES}, got 39"),
        (
            LABELS,
            struct.pack(">4BI", 0, 0, 8, 1, 40) + bytes(38) + b"\x0c\x00",
            "labels lie in 0..9, got 12 for image 38",
        ),
    ],
)
def test_a_wrong_idx_file_is_named(file: str, content: bytes, said: str, mnist: Path) -> None:
    path = write(mnist, file, content)
    told = load_mnist(mnist)
    assert told.startswith(f"{path}: ")
    assert said in told
    assert told.endswith("delete it, fetch it again and unpack it")


def test_an_idx_file_that_is_gone_when_it_is_read_is_named(mnist: Path) -> None:
    source = datasets.mnist(mnist)
    gone = mnist / "MNIST" / "raw" / LABELS
    gone.unlink()
    assert message(source.train) == (
        f"{gone}: cannot be read (No such file or directory); mend that, or name another --data-root"
    )


# --------------------------------------------------------------- image folders
@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_an_image_that_cannot_be_read_is_named(content: bytes, folder: Path) -> None:
    bad = folder / "train" / "bee" / "1.png"
    bad.write_bytes(content)
    told = message(lambda: load_dataset(config.Data(name="image_folder", root=str(folder))))
    assert told.startswith(f"{bad}: must be an image that can be read (")
    assert told.endswith("fetch it again, or delete it")


def test_an_image_that_is_cut_short_is_named(folder: Path) -> None:
    bad = folder / "train" / "bee" / "1.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    assert message(image_folder.image_folder(folder).train).startswith(f"{bad}: must be an image that can be read (")


@pytest.mark.parametrize("gone", ["train/ant/0.png", "train/bee/2.png", "train/ant", "train", "."])
def test_images_that_are_gone_when_they_are_read_are_named(gone: str, folder: Path) -> None:
    """One image, a class or the whole folder: the first image that is missed."""
    source = image_folder.image_folder(folder)
    path = folder / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    told = message(source.train)
    assert told.startswith(
        f"{path if path.suffix else folder / 'train' / 'ant' / '0.png'}: cannot be read (No such file"
    )
    assert told.endswith("mend that, or remove the image")


# -------------------------------------------------------------- driver, worker
def item(name: str, root: Path) -> Item:
    """An item as the driver makes it, after it has looked at the data."""
    wanted = config.Data(name=name, root=str(root), validation=2)
    recipe = Recipe(method="standard", data=wanted, data_fingerprint=load_dataset(wanted).fingerprint)
    return Item(arm="arm", role="search", recipe=recipe, seeds=(0,))


@pytest.mark.parametrize(
    ("name", "gone", "rule"),
    [
        ("mnist", ".", "data.root: must be an existing folder, got {root}; mend --data-root or drop it"),
        ("mnist", "MNIST", "{root}/MNIST/raw: must hold the unpacked files of MNIST, lacks train-images"),
        ("image_folder", ".", "data.root: must be an existing folder, got {root}; mend --data-root or drop it"),
        ("image_folder", "train", "{root} lacks train; mend it or --data-root"),
        ("image_folder", "train/ant", "{root}/train lacks ant; add, rename or remove folders"),
    ],
)
def test_a_worker_that_lacks_the_drivers_data_says_which(
    name: str, gone: str, rule: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The driver has read the same data, so nothing is to be said against the trial: the run ends with the message."""
    root: Path = request.getfixturevalue({"mnist": "mnist", "image_folder": "folder"}[name])
    configuration = worker.worker_config(item(name, root), Store(tmp_path / "store"), "cpu")
    shutil.rmtree(root / gone)
    expected = rule.format(root=root)
    assert expected in message(lambda: Job.of_study(configuration).dataset())
    result = worker.StudyTrainable(configuration).step()
    assert result["done"]
    assert expected in result["refused"]


def test_images_that_changed_since_the_driver_looked_are_refused(folder: Path, tmp_path: Path) -> None:
    wanted = item("image_folder", folder)
    (folder / "train" / "ant" / "0.png").unlink()
    job = Job.of_study(worker.worker_config(wanted, Store(tmp_path / "store"), "cpu"))
    assert "give every machine the same files" in message(job.dataset)
