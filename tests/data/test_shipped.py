"""The shipped data sets: their images and splits, and the errors for damaged, missing or unreachable files."""

import gzip
import hashlib
import os
import pickle
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from helpers.data_files import data_error, files_under, flip_byte, idx, rows, write_mnist
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, MNIST

from tune_interpreg.data import shipped
from tune_interpreg.data.dataset import Dataset, load_dataset, load_test, to_pixels
from tune_interpreg.data.shipped import CIFAR_FILES, TEST_FILES, TRAIN_FILES
from tune_interpreg.study.config import Data

IMAGES, LABELS = TRAIN_FILES
RAW, CIFAR_FOLDER = "MNIST/raw", "cifar-10-batches-py"


def load(name: str, root: Path | None = None) -> Dataset:
    return load_dataset(Data(name=name, root=root and str(root), validation=10))


# -------------------------------------------------------------------- digits
def test_digits_splits_are_disjoint_cover_all_images_and_keep_their_labels() -> None:
    """All 1,797 images differ, so sets of distinct rows that add up to their union are disjoint."""
    images, labels = load_digits(return_X_y=True)
    x_NCHW = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    pool = {x.numpy().tobytes(): int(y) for x, y in zip(x_NCHW, labels, strict=True)}
    digits = load_dataset(Data(name="digits"))
    splits = (digits.train, digits.validation, load_test(Data(name="digits")))
    assert [len(split) for split in splits] == [1197, 240, 360]
    assert sum(len(rows(split)) for split in splits) == 1797
    assert set().union(*map(rows, splits)) == set(pool)
    for split in splits:
        assert (split.x_NCHW.dtype, split.y_N.dtype) == (torch.float32, torch.int64)
        assert all(pool[x.numpy().tobytes()] == y for x, y in zip(split.x_NCHW, split.y_N, strict=True))
    assert (digits.classes, digits.shape) == (10, (1, 8, 8))
    assert digits.fingerprint == "17e4babebc1a7cfe", "golden: stored results depend on the images and the split"


# ----------------------------------------------------------------- IDX files
@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    return write_mnist(tmp_path / "data")


def test_idx_files_are_read_unchanged(mnist_root: Path) -> None:
    dataset, test = load("mnist", mnist_root), load_test(Data(name="mnist", root=str(mnist_root)))
    assert (len(dataset.train), len(dataset.validation), len(test), dataset.shape) == (30, 10, 20, (1, 28, 28))
    assert test.y_N.tolist() == [n % 10 for n in range(20)]
    assert test.x_NCHW.dtype == torch.uint8
    assert test.x_NCHW.numpy().tobytes() == (mnist_root / RAW / TEST_FILES[0]).read_bytes()[16:]


def test_an_idx_file_that_disappears_before_it_is_read_is_named(mnist_root: Path) -> None:
    source = shipped.mnist(mnist_root)
    (mnist_root / RAW / LABELS).unlink()
    assert data_error(source.train).startswith(
        f"{mnist_root / RAW / LABELS}: cannot be read (No such file or directory)"
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "0 bytes that begin with nothing"),
        (gzip.compress(bytes(5000), mtime=0), "begin with 1f 8b"),
        (idx((1, 2, 2), b"")[:12], "begin with 00 00 08 03 00 00 00 01 00 00 00 02;"),
        (idx((40,), bytes(40)), "begin with 00 00 08 01"),
        (idx((3, 2, 2), bytes(11)), "got 27 bytes"),
        (idx((2**32 - 1,) * 3, b""), "got 16 bytes"),
    ],
)
def test_a_damaged_idx_file_is_named(content: bytes, part: str, mnist_root: Path) -> None:
    (mnist_root / RAW / IMAGES).write_bytes(content)
    message = data_error(lambda: load("mnist", mnist_root))
    assert message.startswith(f"{mnist_root / RAW / IMAGES}: ")
    assert part in message


# ------------------------------------------------------------------ CIFAR-10
def cifar_images(batch: int) -> np.ndarray:
    """Return ten images of noise, N×CHW, different for each batch."""
    return np.random.default_rng(batch).integers(0, 256, (10, 3072), dtype=np.uint8)


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fifty training and ten test images in CIFAR-10's format. Their checksums replace the published ones."""
    folder = tmp_path / "data" / CIFAR_FOLDER
    folder.mkdir(parents=True)
    for batch, file in enumerate(CIFAR_FILES[:6]):
        (folder / file).write_bytes(pickle.dumps({"data": cifar_images(batch), "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in CIFAR_FILES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    return tmp_path / "data"


def test_cifar_files_are_those_of_torchvision() -> None:
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + [CIFAR10.meta["filename"]]
    assert (tuple(names), CIFAR10.base_folder) == (CIFAR_FILES, CIFAR_FOLDER)


def test_cifar_images_are_read_in_order_channels_first(cifar_root: Path) -> None:
    source = shipped.cifar10(cifar_root)
    assert (source.classes, source.shape, source.validation, source.tests) == (10, (3, 32, 32), 5000, 10_000)
    for split, batches in ((source.train(), range(5)), (source.test(), (5,))):
        expected_NCHW = np.concatenate([cifar_images(batch) for batch in batches]).reshape(-1, 3, 32, 32)
        assert torch.equal(split.x_NCHW, torch.from_numpy(expected_NCHW))
        assert split.x_NCHW.is_contiguous()
        assert split.y_N.tolist() == list(range(10)) * len(batches)
    dataset = load("cifar10", cifar_root)
    assert (len(dataset.train), dataset.validation.y_N.bincount().tolist()) == (40, [1] * 10)


@pytest.mark.parametrize("file", ["data_batch_2", "test_batch", "batches.meta"])
def test_an_altered_cifar_file_is_refused(cifar_root: Path, file: str) -> None:
    """An altered test batch is found before the first trial, too."""
    flip_byte(cifar_root / CIFAR_FOLDER / file, -1)
    message = data_error(lambda: load("cifar10", cifar_root))
    assert message.startswith(f"{cifar_root / CIFAR_FOLDER}: ")
    assert "another checksum" in message


# ------------------------------------------------------- missing files, downloads
@pytest.mark.parametrize(
    ("name", "place", "lost"),
    [("mnist", RAW, (IMAGES, TEST_FILES[1])), ("cifar10", CIFAR_FOLDER, ("data_batch_3", "batches.meta"))],
)
def test_missing_files_are_named_with_the_remedy(
    name: str, place: str, lost: tuple[str, str], mnist_root: Path, cifar_root: Path
) -> None:
    for file in lost:
        (mnist_root / place / file).unlink()
    message = data_error(lambda: load(name, mnist_root))
    assert message.startswith(f"{mnist_root / place}: ")
    assert f"lacks {', '.join(lost)}; pass --data-root with a folder that holds {place}" in message


@pytest.fixture(params=["mnist", "cifar10"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mirror(
    name: str, mnist_root: Path, cifar_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder with the packed files, served where torchvision looks for them."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for file in TRAIN_FILES + TEST_FILES:
        (folder / f"{file}.gz").write_bytes(gzip.compress((mnist_root / RAW / file).read_bytes()))
    digests = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    packed = folder / "cifar-10-python.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(cifar_root / CIFAR_FOLDER, CIFAR_FOLDER)
    monkeypatch.setattr(MNIST, "resources", digests)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        redirect(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield folder
        server.shutdown()


def redirect(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(MNIST, "mirrors", [f"{url}/"])
    monkeypatch.setattr(CIFAR10, "url", f"{url}/cifar-10-python.tar.gz")


def test_without_a_root_files_are_downloaded_once(name: str, home: Path, mirror: Path, tmp_path: Path) -> None:
    """The cache then holds only the files. A lost file is fetched again; otherwise the mirror is not needed."""
    stored = {"mnist": (RAW, TRAIN_FILES + TEST_FILES), "cifar10": (CIFAR_FOLDER, CIFAR_FILES)}
    (folder, files), cache = stored[name], home / ".cache" / "tune-interpreg"
    first = load(name).fingerprint
    assert files_under(cache) == sorted(f"{folder}/{file}" for file in files)
    assert len(list(cache.iterdir())) == 1
    (cache / folder / files[1]).unlink()
    load(name)
    for packed in mirror.iterdir():
        packed.unlink()
    assert first == load(name).fingerprint == load(name, cache).fingerprint == load(name, tmp_path / "data").fingerprint


@pytest.mark.parametrize("damaged", [0, 3])
def test_a_failed_download_leaves_no_file(name: str, home: Path, mirror: Path, damaged: int) -> None:
    """Neither the damaged file, first or last, nor the others."""
    files = {"mnist": sorted(mirror.glob("*ubyte.gz")), "cifar10": list(mirror.glob("*.tar.gz"))}[name]
    flip_byte(files[damaged % len(files)], -1)
    assert "could not be downloaded" in data_error(lambda: load(name))
    assert files_under(home) == []


def test_without_a_network_the_remedy_is_named(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on port 9."""
    redirect("http://127.0.0.1:9", monkeypatch)
    message = data_error(lambda: load(name))
    folder = {"mnist": RAW, "cifar10": CIFAR_FOLDER}[name]
    assert all(part in message for part in ("could not be downloaded", folder, "--data-root")), message
    assert files_under(home) == []


# ------------------------------------------------------------ the real MNIST
@pytest.mark.skipif("TUNE_INTERPREG_DATA" not in os.environ, reason="TUNE_INTERPREG_DATA names no root of MNIST")
def test_real_mnist_has_known_facts() -> None:
    root = os.environ["TUNE_INTERPREG_DATA"]
    pool, test = shipped.mnist(Path(root)).train(), load_test(Data(name="mnist", root=root))
    assert (len(pool), len(test), pool.x_NCHW.dtype) == (60_000, 10_000, torch.uint8)
    assert (pool.y_N[:5].tolist(), test.y_N[:5].tolist()) == ([5, 0, 4, 1, 9], [7, 2, 1, 0, 4])
    assert to_pixels(pool.x_NCHW).double().mean().item() == pytest.approx(0.1307, abs=5e-5)
    mnist = load_dataset(Data(name="mnist", root=root))
    assert (len(mnist.train), len(mnist.validation), mnist.shape, mnist.classes) == (55_000, 5000, (1, 28, 28), 10)
