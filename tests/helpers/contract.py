"""What the tests of training methods share: which methods and nets there are, and a way to make a Trainable.

A method's strengths are its required parameters whose least value is 0: λ, λ_J and the like.
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

from trainables import MethodTrainable
from tune_interpreg import registry
from tune_interpreg.data.dataset import Source, Split
from tune_interpreg.data.shipped import digits
from tune_interpreg.training.trainer import Batch

COMBINED = ["adversarial + interpretation", "jacobian + interpretation"]
METHODS = [*registry.names("methods"), *COMBINED]
B, N = 32, 64
ATTACK = {"norm": "l2", "eps": 0.5, "steps": 3}
SHAPES = {"digits": (1, 8, 8), "tiles": (3, 16, 16)}

Make = Callable[..., MethodTrainable]


def method(name: str) -> type[MethodTrainable]:
    found: type[MethodTrainable] = registry.method(name)
    return found


def strengths(name: str) -> list[str]:
    return [key for key, one in method(name).parameters.items() if one.default is None and one.low == 0]


def images_for(net: str) -> str:
    """The data set that the tests train a net on; CIFAR's needs at least 16×16 pixels."""
    return "tiles" if net == "cifar_cnn" else "digits"


def data(name: str = "digits", images: int = N) -> dict[str, Any]:
    return {"name": name, "train_limit": images, "validation": 30, "test_limit": 30}


def training(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": B, "lr": 0.05}


def maps(name: str, images: int = N, on: str = "digits") -> np.ndarray:
    """Maps without meaning: of any sign where the method compares signed ones, else non-negative."""
    drawn = np.random.default_rng(0).random((images, *SHAPES[on]), dtype=np.float32)
    return 2 * drawn - 1 if method(name).signed_targets else drawn


def tiles(root: Path | None) -> Source:
    """The digits as 3×16×16 images: each pixel is a tile of four, and each channel has a third of the brightness."""
    source = digits(root)

    def tiled(read: Callable[[], Split]) -> Split:
        split = read()
        x_N1HW = split.x_NCHW.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return Split(x_N1HW * torch.tensor([1.0, 2 / 3, 1 / 3]).view(1, 3, 1, 1), split.y_N)

    return Source(10, SHAPES["tiles"], 240, lambda: tiled(source.train), lambda: tiled(source.test), tests=360)


def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """For a fixture: makes a method's Trainable of a plain configuration, or of a study's `item`; with dropout."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    monkeypatch.setitem(registry._group("datasets"), "tiles", EntryPoint("tiles", "helpers.contract:tiles", "datasets"))
    made: list[MethodTrainable] = []

    def one(
        name: str, *, net: str = "mnist_cnn", strength: float = 0.1, images: int = N, epochs: int = 2, **own: Any
    ) -> MethodTrainable:
        config = {"data": data(images_for(net), images), "model": net, "attack": ATTACK, "training": training(epochs)}
        config |= dict.fromkeys(strengths(name), strength)
        if method(name).needs_targets:
            file = tmp_path / f"{len(made)}.npy"
            np.save(file, maps(name, images, images_for(net)))
            config["maps"] = str(file)
        made.append(method(name)(own if "item" in own else config | own))
        return made[-1]

    yield one
    for trainable in made:
        trainable.cleanup()


def batch(trainable: MethodTrainable, dtype: torch.dtype = torch.float32, images: int = B) -> Batch:
    """The first images of the training split, as a step sees them; the streams begin anew."""
    (replica,) = trainable.trainer.replicas
    replica.begin_epoch(0, lr=0.05)
    seen = trainable.trainer.make_batch(replica, torch.arange(images))
    target = None if seen.target_BCHW is None else seen.target_BCHW.to(dtype)
    return Batch(seen.x_BCHW.to(dtype), seen.y_B, target, seen.noise)


def gradients(trainable: MethodTrainable, given: Batch) -> list[Tensor]:
    """Of the loss, with respect to each parameter of the first seed's model."""
    model = trainable.trainer.replicas[0].model
    return list(torch.autograd.grad(sum(trainable.terms(model, given).values()), list(model.parameters())))
