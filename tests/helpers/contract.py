"""Trainables of all methods, for tests: their names, a way to make them, and batches as a step gets them.

Shapes: B batch, N training images, C·H·W image.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.tune import Trainable

from trainables import MethodTrainable, testing
from tune_interpreg import registry
from tune_interpreg.training.trainer import Batch

COMBINED = ["adversarial + interpretation", "jacobian + interpretation", "distill + gradient_match"]
METHODS = [*registry.names("methods"), *COMBINED]
B, N = testing.BATCH, 2 * testing.BATCH
ATTACK: dict[str, Any] = testing.CONFIG["attack"]

Make = Callable[..., MethodTrainable]


def method(name: str) -> type[MethodTrainable]:
    kind: type[MethodTrainable] = registry.load_method(name)
    return kind


def strengths(name: str) -> list[str]:
    return testing.strengths(method(name))


def data(images: int = N) -> dict[str, Any]:
    return testing.CONFIG["data"] | {"train_limit": images}


def training(epochs: int) -> dict[str, Any]:
    return testing.CONFIG["training"] | {"epochs": epochs}


def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Yield a function that makes a method's Trainable, of a plain configuration or of a study's ``job``."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    trainables: list[MethodTrainable] = []

    def make(
        name: str, *, net: str = "mnist_cnn", strength: float = 0.1, images: int = N, **changes: Any
    ) -> MethodTrainable:
        config = testing.CONFIG | {"data": data(images), "model": net} | dict.fromkeys(strengths(name), strength)
        if method(name).needs_targets:
            config["maps"] = testing.write_maps(tmp_path / f"{len(trainables)}.npy", config["data"], method(name))
        if method(name).needs_teacher:
            file = tmp_path / f"{len(trainables)}.safetensors"
            config["teacher"] = testing.write_teacher(file, config | changes)
        trainables.append(method(name)(changes if "job" in changes else config | changes))
        return trainables[-1]

    yield make
    for trainable in trainables:
        trainable.cleanup()


def finish(trainable: Trainable) -> list[dict[str, Any]]:
    """Return the results of all remaining steps."""
    results = [trainable.step()]
    while not results[-1].get("done"):
        results.append(trainable.step())
    return results


def first_batch(trainable: MethodTrainable, dtype: torch.dtype = torch.float32, images: int = B) -> Batch:
    """Return the first images of the training split as a step gets them, with restarted random streams."""
    batch = testing.first_batch(trainable, images)
    target = None if batch.target_BCHW is None else batch.target_BCHW.to(dtype)
    teacher = None if batch.teacher is None else batch.teacher.to(dtype)
    return replace(batch, x_BCHW=batch.x_BCHW.to(dtype), target_BCHW=target, teacher=teacher)
