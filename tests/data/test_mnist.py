"""The real MNIST, where a machine holds it: published files, known facts, sizes of the splits."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from tune_interpreg.data import dataset as data
from tune_interpreg.data import shipped as datasets
from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.study import config

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

pytestmark = pytest.mark.skipif(
    "TUNE_INTERPREG_DATA" not in os.environ, reason="TUNE_INTERPREG_DATA names no folder that holds MNIST/raw"
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for the entry points, so that the tests need no installed package."""
    monkeypatch.setattr(data.registry, "resolve", lambda group, name: getattr({"datasets": datasets}[group], name))


def rows(split: Split) -> set[bytes]:
    """The identities of a split's images."""
    return {image.numpy().tobytes() for image in split.x_NCHW}


def shares(split: Split) -> torch.Tensor:
    return split.y_N.bincount(minlength=10).double()


def load(**keys: object) -> Dataset:
    return data.load(config.Data.model_validate(keys))


def load_test(**keys: object) -> Split:
    return data.load_test(config.Data.model_validate(keys))


@pytest.fixture(scope="module")
def mnist_root() -> str:
    return os.environ["TUNE_INTERPREG_DATA"]


def test_mnist_files_are_the_published_ones(mnist_root: str) -> None:
    for file, digest in MD5.items():
        assert hashlib.md5(Path(mnist_root, "MNIST", "raw", file).read_bytes()).hexdigest() == digest


def test_mnist_known_facts(mnist_root: str) -> None:
    """60,000 and 10,000 images; the first labels are 5, 0, 4, 1, 9 and 7, 2, 1, 0, 4."""
    source = datasets.mnist(Path(mnist_root))
    train, test = source.train(), source.test()
    assert (len(train), len(test), train.x_NCHW.dtype) == (60_000, 10_000, torch.uint8)
    assert train.y_N[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.y_N[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.pixels(train.x_NCHW).double().mean().item() == pytest.approx(0.1307, abs=5e-5)


def test_mnist_splits(mnist_root: str) -> None:
    mnist = load(name="mnist", root=mnist_root)
    assert (len(mnist.train), len(mnist.validation), mnist.shape, mnist.classes) == (55_000, 5000, (1, 28, 28), 10)
    pool = datasets.mnist(Path(mnist_root)).train()
    assert (shares(mnist.validation) - shares(pool) / 12).abs().max() < 1
    assert torch.equal(shares(mnist.train) + shares(mnist.validation), shares(pool))
    assert len(rows(mnist.train) | rows(mnist.validation)) == len(rows(pool))
    assert not rows(mnist.train) & rows(mnist.validation)


def test_mnist_subsets(mnist_root: str) -> None:
    """The probes' sizes: 14,400 for training, 1,000 for testing."""
    mnist = load(name="mnist", root=mnist_root, train_limit=14_400)
    test = load_test(name="mnist", root=mnist_root, test_limit=1000)
    whole = load_test(name="mnist", root=mnist_root)
    assert len(mnist.train) == 14_400
    assert (shares(test) - shares(whole) / 10).abs().max() < 1
    assert rows(test) < rows(whole)
