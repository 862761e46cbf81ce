"""Trainables of all methods, for tests: their names, a way to make them, and batches as a step gets them.

Shapes: B batch, N training images, C·H·W image.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables import MethodTrainable, testing
from tune_interpreg import registry
from tune_interpreg.data.dataset import Source, Split
from tune_interpreg.data.shipped import digits
from tune_interpreg.training.trainer import Batch

COMBINED = ["adversarial + interpretation", "jacobian + interpretation"]
METHODS = [*registry.names("methods"), *COMBINED]
B, N = testing.BATCH, 2 * testing.BATCH
ATTACK = {"norm": "l2", "eps": 0.5, "steps": 3}
SHAPES = {"digits": (1, 8, 8), "tiles": (3, 16, 16)}

Make = Callable[..., MethodTrainable]


def method(name: str) -> type[MethodTrainable]:
    kind: type[MethodTrainable] = registry.load_method(name)
    return kind


def strengths(name: str) -> list[str]:
    """Return the required parameters with a lower bound of 0: λ, λ_J and the like."""
    parameters = method(name).parameters
    return [key for key, parameter in parameters.items() if parameter.default is None and parameter.low == 0]


def data(name: str = "digits", images: int = N) -> dict[str, Any]:
    return {"name": name, "train_limit": images, "validation": 30, "test_limit": 30}


def training(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": B, "lr": 0.05}


def random_maps(name: str, images: int = N, dataset: str = "digits") -> np.ndarray:
    """Return random maps: with signs if the method compares signed ones, else non-negative."""
    maps = np.random.default_rng(0).random((images, *SHAPES[dataset]), dtype=np.float32)
    return 2 * maps - 1 if method(name).signed_targets else maps


def tiles(root: Path | None) -> Source:
    """Return the digits as 3×16×16 images: four pixels per pixel, and a third of the brightness per channel."""
    source = digits(root)

    def tile(read: Callable[[], Split]) -> Split:
        split = read()
        x_N1HW = split.x_NCHW.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return Split(x_N1HW * torch.tensor([1.0, 2 / 3, 1 / 3]).view(1, 3, 1, 1), split.y_N)

    return Source(10, SHAPES["tiles"], 240, lambda: tile(source.train), lambda: tile(source.test), tests=360)


def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Yield a function that makes a method's Trainable, of a plain configuration or of a study's ``item``."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    entry = EntryPoint("tiles", "helpers.contract:tiles", "datasets")
    monkeypatch.setitem(registry._entry_points("datasets"), "tiles", [entry])
    trainables: list[MethodTrainable] = []

    def make(
        name: str, *, net: str = "mnist_cnn", strength: float = 0.1, images: int = N, epochs: int = 2, **changes: Any
    ) -> MethodTrainable:
        dataset = "tiles" if net == "cifar_cnn" else "digits"  # CIFAR's network needs 16×16 pixels
        config = {"data": data(dataset, images), "model": net, "attack": ATTACK, "training": training(epochs)}
        config["evaluation"] = {"steps": 3}
        config |= dict.fromkeys(strengths(name), strength)
        if method(name).needs_targets:
            file = tmp_path / f"{len(trainables)}.npy"
            np.save(file, random_maps(name, images, dataset))
            config["maps"] = str(file)
        trainables.append(method(name)(changes if "item" in changes else config | changes))
        return trainables[-1]

    yield make
    for trainable in trainables:
        trainable.cleanup()


def first_batch(trainable: MethodTrainable, dtype: torch.dtype = torch.float32, images: int = B) -> Batch:
    """Return the first images of the training split as a step gets them, with restarted random streams."""
    batch = testing.first_batch(trainable, images)
    target = None if batch.target_BCHW is None else batch.target_BCHW.to(dtype)
    return Batch(batch.x_BCHW.to(dtype), batch.y_B, target, batch.noise)


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
