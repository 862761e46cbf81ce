"""The data sets that come along: what is in them, what a damaged, missing or unreachable file says."""

import gzip
import hashlib
import struct
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits

from tune_interpreg.data import dataset as data
from tune_interpreg.data import shipped as datasets
from tune_interpreg.data.dataset import DataError, Dataset, Split
from tune_interpreg.study import config

IDX_NAMES = datasets.TRAIN_FILES + datasets.TEST_FILES


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for the entry points, so that the tests need no installed package."""
    monkeypatch.setattr(data.registry, "resolve", lambda group, name: getattr({"datasets": datasets}[group], name))


@pytest.fixture
def fake_root(tmp_path: Path) -> Path:
    """A folder with 40 training and 20 test images in MNIST's format."""
    write_idx_files(tmp_path / "MNIST" / "raw")
    return tmp_path


def write_idx_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for (images, labels), size in ((datasets.TRAIN_FILES, 40), (datasets.TEST_FILES, 20)):
        (folder / images).write_bytes(
            struct.pack(">4B3I", 0, 0, 8, 3, size, 28, 28) + random.bytes(size * 28 * 28),
        )
        (folder / labels).write_bytes(struct.pack(">4BI", 0, 0, 8, 1, size) + bytes(n % 10 for n in range(size)))


def rows(split: Split) -> set[bytes]:
    """The identities of a split's images."""
    return {image.numpy().tobytes() for image in split.x_NCHW}


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        call()
    return str(raised.value)


def load(**keys: object) -> Dataset:
    return data.load(config.Data.model_validate(keys))


def load_test(**keys: object) -> Split:
    return data.load_test(config.Data.model_validate(keys))


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# ---------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits_pool() -> Split:
    images, labels = load_digits(return_X_y=True)
    return Split(torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels))


def test_digits_sizes_and_range() -> None:
    digits, test = load(name="digits"), load_test(name="digits")
    assert (len(digits.train), len(digits.validation), len(test)) == (1197, 240, 360)
    assert (digits.classes, digits.shape) == (10, (1, 8, 8))
    for split in (digits.train, digits.validation, test):
        assert split.x_NCHW.shape == (len(split), 1, 8, 8)
        assert split.x_NCHW.dtype == torch.float32
        assert split.y_N.dtype == torch.int64
        assert split.x_NCHW.min() == 0
        assert split.x_NCHW.max() == 1


def test_digits_splits_are_disjoint_and_cover(digits_pool: Split) -> None:
    """All 1,797 images differ, so three sets of distinct rows with their union's size share none."""
    digits, test = load(name="digits"), load_test(name="digits")
    parts = [rows(split) for split in (digits.train, digits.validation, test)]
    assert sum(map(len, parts)) == 1797
    assert set.union(*parts) == rows(digits_pool)


def test_digits_keep_their_labels(digits_pool: Split) -> None:
    pool = {x.numpy().tobytes(): int(y) for x, y in zip(digits_pool.x_NCHW, digits_pool.y_N, strict=True)}
    digits = load(name="digits")
    for split in (digits.train, digits.validation, load_test(name="digits")):
        for x, y in zip(split.x_NCHW, split.y_N, strict=True):
            assert pool[x.numpy().tobytes()] == y


def test_digits_test_images_do_not_depend_on_the_limits_of_training() -> None:
    plain = load_test(name="digits")
    limited = load_test(name="digits", train_limit=10, validation=500)
    assert torch.equal(plain.x_NCHW, limited.x_NCHW)


def test_digits_fingerprint_is_pinned() -> None:
    """Golden: it names the images and the split, so it changes only when one of them does."""
    assert load(name="digits").fingerprint == "17e4babebc1a7cfe"


# ---------------------------------------------------------------- IDX files


def test_root_without_files_names_each(fake_root: Path) -> None:
    folder = fake_root / "MNIST" / "raw"
    (folder / datasets.TEST_FILES[1]).unlink()
    (folder / datasets.TRAIN_FILES[0]).unlink()
    said = message(lambda: load(name="mnist", root=str(fake_root)))
    assert f"{folder}: " in said
    assert "lacks train-images-idx3-ubyte, t10k-labels-idx1-ubyte" in said
    assert "pass --data-root with a folder that holds MNIST/raw, or drop it to download" in said


def test_idx_files_are_read_as_they_are(fake_root: Path) -> None:
    fake = load(name="mnist", root=str(fake_root), validation=10)
    test = load_test(name="mnist", root=str(fake_root))
    assert (len(fake.train), len(fake.validation), len(test), fake.shape) == (30, 10, 20, (1, 28, 28))
    assert test.y_N.tolist() == [n % 10 for n in range(20)]
    content = (fake_root / "MNIST" / "raw" / datasets.TEST_FILES[0]).read_bytes()
    assert test.x_NCHW.dtype == torch.uint8
    assert test.x_NCHW.numpy().tobytes() == content[16:]


def test_loading_never_reads_the_test_files(fake_root: Path) -> None:
    """With rubbish in the test files training loads, to the same fingerprint, and only the final evaluation fails."""
    base = load(name="mnist", root=str(fake_root), validation=10).fingerprint
    for file in datasets.TEST_FILES:
        (fake_root / "MNIST" / "raw" / file).write_bytes(b"rubbish")
    assert load(name="mnist", root=str(fake_root), validation=10).fingerprint == base
    assert "t10k-images-idx3-ubyte" in message(lambda: load_test(name="mnist", root=str(fake_root)))


@pytest.mark.parametrize("file", datasets.TRAIN_FILES)
def test_a_changed_file_changes_the_fingerprint(fake_root: Path, file: str) -> None:
    base = load(name="mnist", root=str(fake_root), validation=10).fingerprint
    flip_byte(fake_root / "MNIST" / "raw" / file, -1)
    assert load(name="mnist", root=str(fake_root), validation=10).fingerprint != base


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ("begins with 00 00 08 03", "got nothing")),
        (b"\x1f\x8b\x08\x00rubbish-and-more", ("begins with 00 00 08 03", "got 1f 8b 08 00")),
        (struct.pack(">4B3I", 0, 0, 13, 3, 1, 2, 2) + bytes(4), ("00 00 08 03", "got 00 00 0d 03")),
        (struct.pack(">4B2I", 0, 0, 8, 3, 1, 2), ("and 3 sizes", "got 00 00 08 03 00 00 00 01 00 00 00 02")),
        (struct.pack(">4B3I", 0, 0, 8, 3, 3, 2, 2) + bytes(11), ("3×2×2 asks for 28 bytes", "got 27")),
        (struct.pack(">4B3I", 0, 0, 8, 3, 3, 2, 2) + bytes(13), ("3×2×2 asks for 28 bytes", "got 29")),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), ("asks for 79,", "got 16")),
    ],
)
def test_damaged_idx_files(tmp_path: Path, content: bytes, parts: tuple[str, ...]) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    said = message(lambda: datasets.read_idx(path, dimensions=3))
    assert said.startswith(f"{path}: ")
    assert all(part in said for part in (*parts, "fetch it again")), said


def test_idx_of_other_size_is_no_mnist(fake_root: Path) -> None:
    path = fake_root / "MNIST" / "raw" / datasets.TRAIN_FILES[0]
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 40, 14, 14) + bytes(40 * 14 * 14))
    said = message(lambda: load(name="mnist", root=str(fake_root), validation=10))
    assert "images are (1, 28, 28), got (1, 14, 14)" in said


# ---------------------------------------------------------------- downloads, from a mirror on this machine


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line per request."""

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def mirror(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the four packed files, served where torchvision looks for MNIST."""
    write_idx_files(tmp_path / "plain")
    folder = tmp_path / "mirror"
    folder.mkdir()
    for file in IDX_NAMES:
        (folder / f"{file}.gz").write_bytes(gzip.compress((tmp_path / "plain" / file).read_bytes()))
    digests = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", digests)
    with server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_no_root_downloads_once(home: Path, mirror: Path) -> None:
    """The cache then holds the four files and nothing else, and the mirror is no longer needed."""
    first = load(name="mnist", validation=10)
    cache = home / ".cache" / "tune-interpreg"
    assert files_under(cache) == sorted(f"MNIST/raw/{file}" for file in IDX_NAMES)
    assert [path.name for path in cache.iterdir()] == ["MNIST"]
    for packed in mirror.iterdir():
        packed.unlink()
    assert load(name="mnist", validation=10).fingerprint == first.fingerprint
    assert load(name="mnist", root=str(cache), validation=10).fingerprint == first.fingerprint


def test_no_network_names_the_remedy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on a port that a closed server had."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        port = server.server_port
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
    said = message(lambda: load(name="mnist"))
    assert all(part in said for part in ("could not be downloaded", "four files", "MNIST/raw", "--data-root")), said
    assert "\n" not in said
    assert files_under(home) == []


@pytest.mark.parametrize("damaged", IDX_NAMES)
def test_a_failed_download_leaves_nothing(home: Path, mirror: Path, damaged: str) -> None:
    """Whichever file arrives damaged, no other stays behind."""
    flip_byte(mirror / f"{damaged}.gz", -1)
    assert "could not be downloaded" in message(lambda: load(name="mnist"))
    assert files_under(home) == []


def test_a_cache_in_part_is_completed(home: Path, mirror: Path) -> None:
    load(name="mnist", validation=10)
    lost = home / ".cache" / "tune-interpreg" / "MNIST" / "raw" / IDX_NAMES[1]
    lost.unlink()
    load(name="mnist", validation=10)
    assert lost.is_file()
