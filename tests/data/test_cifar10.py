"""CIFAR-10's files: what is read from them, and what a missing, altered or unreachable one says."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from tune_interpreg.data import dataset as data
from tune_interpreg.data import shipped as datasets
from tune_interpreg.data.dataset import DataError, Dataset, Split
from tune_interpreg.study import config

FOLDER = "cifar-10-batches-py"
BATCHES = datasets.CIFAR_FILES[:6]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder; and the data set itself stands for its entry point."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data.registry, "resolve", lambda group, name: getattr({"datasets": datasets}[group], name))
    return tmp_path / "home"


class Old(pickle.Pickler):
    """Writes a dtype as NumPy did when CIFAR-10 was published, with numbers for its flags."""

    def reducer_override(self, written: object) -> object:
        if isinstance(written, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        return NotImplemented


def pickled(content: object) -> bytes:
    stream = io.BytesIO()
    Old(stream, protocol=2).dump(content)
    return stream.getvalue()


def images_of(batch: str) -> np.ndarray:
    """Ten images of noise, N×CHW, another ten for each batch."""
    return np.random.default_rng(BATCHES.index(batch)).integers(0, 256, (10, 3072), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fifty training and ten test images in CIFAR-10's format, whose checksums stand for the published ones."""
    folder = tmp_path / "data" / FOLDER
    folder.mkdir(parents=True)
    for batch in BATCHES:
        (folder / batch).write_bytes(pickled({"data": images_of(batch), "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickled({"label_names": [f"class {k}" for k in range(10)]}))
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, md5[name]] for name in BATCHES[5:]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    return tmp_path / "data"


def load(root: Path | None = None) -> Dataset:
    return data.load(config.Data(name="cifar10", root=root and str(root), validation=10))


def load_test(root: Path) -> Split:
    return data.load_test(config.Data(name="cifar10", root=str(root)))


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --------------------------------------------------------------------- files


def test_the_files_are_torchvisions() -> None:
    assert (
        tuple([name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + [CIFAR10.meta["filename"]])
        == datasets.CIFAR_FILES
    )
    assert (CIFAR10.base_folder, CIFAR10.__name__) == (datasets.CIFAR.folder, datasets.CIFAR.name)


def test_images_are_read_in_their_order_channels_first(root: Path) -> None:
    source = datasets.cifar10(root)
    assert (source.classes, source.shape, source.validation, source.tests) == (10, (3, 32, 32), 5000, 10_000)
    for split, batches in ((source.train(), BATCHES[:5]), (source.test(), BATCHES[5:])):
        expected_NCHW = np.concatenate([images_of(batch) for batch in batches]).reshape(-1, 3, 32, 32)
        assert torch.equal(split.x_NCHW, torch.from_numpy(expected_NCHW))
        assert split.x_NCHW.is_contiguous()
        assert split.y_N.tolist() == list(range(10)) * len(batches)


def test_it_is_split_as_every_data_set(root: Path) -> None:
    dataset = load(root)
    assert (len(dataset.train), len(dataset.validation), len(load_test(root))) == (40, 10, 10)
    assert dataset.validation.y_N.bincount().tolist() == [1] * 10


def test_missing_files_are_named(root: Path) -> None:
    (root / FOLDER / "data_batch_3").unlink()
    (root / FOLDER / "batches.meta").unlink()
    said = message(lambda: load(root))
    assert said.startswith(f"{root / FOLDER}: ")
    assert "lacks data_batch_3, batches.meta" in said
    assert f"pass --data-root with a folder that holds {FOLDER}, or drop it to download" in said


@pytest.mark.parametrize("file", ["data_batch_2", "test_batch", "batches.meta"])
def test_an_altered_file_is_named_and_never_unpickled(root: Path, file: str) -> None:
    """An altered test batch too is found before the first trial, not after the last."""
    flip_byte(root / FOLDER / file, -1)
    said = message(lambda: load(root))
    assert f"got other checksums for {file}; " in said
    assert "fetch cifar-10-python.tar.gz and unpack it" in said


# ----------------------------------------------------------------- downloads


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line per request."""

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def mirror(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The packed files, served where torchvision looks for them; those unpacked are gone."""
    packed = tmp_path / "mirror" / "cifar-10-python.tar.gz"
    packed.parent.mkdir()
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(root / FOLDER, FOLDER)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(packed.parent)))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{packed.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    with server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield packed
        server.shutdown()
        thread.join()


def test_no_root_downloads_once(home: Path, mirror: Path, root: Path) -> None:
    """The cache then holds the seven files and nothing else, and the mirror is no longer needed."""
    first = load()
    cache = home / ".cache" / "tune-interpreg"
    assert files_under(cache) == sorted(f"{FOLDER}/{file}" for file in datasets.CIFAR_FILES)
    mirror.unlink()
    assert first.fingerprint == load().fingerprint == load(cache).fingerprint == load(root).fingerprint


def test_a_failed_download_leaves_nothing(home: Path, mirror: Path) -> None:
    flip_byte(mirror, -1)
    assert "could not be downloaded" in message(load)
    assert files_under(home) == []


def test_no_network_names_the_remedy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on a port that a closed server had."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        port = server.server_port
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/cifar-10-python.tar.gz")
    said = message(load)
    wanted = ("could not be downloaded", "fetch cifar-10-python.tar.gz and unpack it", "--data-root", FOLDER)
    assert all(part in said for part in wanted), said
    assert files_under(home) == []
