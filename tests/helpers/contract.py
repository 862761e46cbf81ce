"""Trainables of all methods, for tests: their names, a way to make them, and batches as a step gets them.

Shapes: B batch, N training images, C·H·W image.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.tune import Trainable

from trainables import MethodTrainable, testing
from tune_interpreg import registry
from tune_interpreg.data.dataset import Source, Split
from tune_interpreg.data.shipped import digits
from tune_interpreg.training.trainer import Batch

COMBINED = ["adversarial + interpretation", "jacobian + interpretation"]
METHODS = [*registry.names("methods"), *COMBINED]
B, N = testing.BATCH, 2 * testing.BATCH
ATTACK: dict[str, Any] = testing.CONFIG["attack"]

Make = Callable[..., MethodTrainable]


def method(name: str) -> type[MethodTrainable]:
    kind: type[MethodTrainable] = registry.load_method(name)
    return kind


def strengths(name: str) -> list[str]:
    return testing.strengths(method(name))


def data(name: str = "digits", images: int = N) -> dict[str, Any]:
    return testing.CONFIG["data"] | {"name": name, "train_limit": images}


def training(epochs: int) -> dict[str, Any]:
    return testing.CONFIG["training"] | {"epochs": epochs}


def tiles(root: Path | None) -> Source:
    """Return the digits as 3×16×16 images: four pixels per pixel, and a third of the brightness per channel."""
    source = digits(root)

    def tile(read: Callable[[], Split]) -> Split:
        split = read()
        x_N1HW = split.x_NCHW.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return Split(x_N1HW * torch.tensor([1.0, 2 / 3, 1 / 3]).view(1, 3, 1, 1), split.y_N)

    return Source(10, (3, 16, 16), 240, lambda: tile(source.train), lambda: tile(source.test), tests=360)


def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Yield a function that makes a method's Trainable, of a plain configuration or of a study's ``item``."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    entry = EntryPoint("tiles", "helpers.contract:tiles", "datasets")
    monkeypatch.setitem(registry._entry_points("datasets"), "tiles", [entry])
    trainables: list[MethodTrainable] = []

    def make(
        name: str, *, net: str = "mnist_cnn", strength: float = 0.1, images: int = N, **changes: Any
    ) -> MethodTrainable:
        shown = data("tiles" if net == "cifar_cnn" else "digits", images)  # CIFAR's network needs 16×16 pixels
        config = testing.CONFIG | {"data": shown, "model": net} | dict.fromkeys(strengths(name), strength)
        if method(name).needs_targets:
            config["maps"] = testing.write_maps(tmp_path / f"{len(trainables)}.npy", shown, method(name))
        trainables.append(method(name)(changes if "item" in changes else config | changes))
        return trainables[-1]

    yield make
    for trainable in trainables:
        trainable.cleanup()


def finish(trainable: Trainable) -> list[dict[str, Any]]:
    """Return the results of all remaining steps."""
    results = [trainable.step()]
    while "record" not in results[-1]:
        results.append(trainable.step())
    return results


def first_batch(trainable: MethodTrainable, dtype: torch.dtype = torch.float32, images: int = B) -> Batch:
    """Return the first images of the training split as a step gets them, with restarted random streams."""
    batch = testing.first_batch(trainable, images)
    target = None if batch.target_BCHW is None else batch.target_BCHW.to(dtype)
    return Batch(batch.x_BCHW.to(dtype), batch.y_B, target, batch.noise)
