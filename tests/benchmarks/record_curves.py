"""Train one strength after another and record the training loss: the curves that bench_matching.py searches.

Three curves on a part of MNIST: λ of interpretation regularization towards an adversarial teacher's maps, λ towards the
same maps permuted, and λ_J. A row is one training: curve, strength, seed, and the mean over its last epoch of the loss.
Rows that the file already holds are not made again.

    TUNE_INTERPREG_DATA=DATA python tests/benchmarks/record_curves.py
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainables import AdversarialTrainable, InterpretationTrainable, JacobianTrainable, MethodTrainable
from tune_interpreg import seeding
from tune_interpreg.data.dataset import pixels
from tune_interpreg.gradients import saliency
from tune_interpreg.study.config import MapSettings
from tune_interpreg.training.trainer import Diverged

FILE = Path(__file__).with_name("matching_curves.csv")
COLUMNS = ("curve", "strength", "seed", "loss")
CURVES = ["lambda, robust", "lambda, permuted", "lambda_j"]
LOW, HIGH = 1e-3, 10.0
BLOCK = 256  # images whose maps are made at once


def trained(kind: type[MethodTrainable], config: Mapping[str, Any]) -> tuple[MethodTrainable, float]:
    """The Trainable after its last epoch, and that epoch's loss; inf where it diverged."""
    trainable = kind(dict(config))
    loss = float("inf")
    try:
        for _ in range(trainable.recipe.training.epochs):
            loss = float(trainable.step()["train/loss"])
    except Diverged:
        loss = float("inf")
    finally:
        trainable.cleanup()
        shutil.rmtree(trainable.logdir)  # a Trainable outside of a Tuner logs below the user's home
    return trainable, loss


def make_maps(config: Mapping[str, Any], folder: str) -> dict[str, str]:
    """The files of an adversarially trained teacher's SmoothGrad maps, as they are and permuted."""
    teacher, _ = trained(AdversarialTrainable, config)
    (replica,) = teacher.trainer.replicas
    train = teacher.data.train
    blocks = [train.at(slice(first, first + BLOCK)) for first in range(0, len(train), BLOCK)]
    generator = seeding.generator(0, "smoothgrad")
    model, settings = replica.model.eval(), MapSettings()
    made = [
        saliency.smoothgrad(model, pixels(one.x_NCHW), one.y_N, settings=settings, generator=generator, chunk=1).numpy()
        for one in blocks
    ]
    raw_NCHW = np.concatenate(made)
    order_ND = np.argsort(np.random.default_rng(0).random((len(raw_NCHW), raw_NCHW[0].size)), axis=1)
    permuted_ND = np.take_along_axis(raw_NCHW.reshape(len(raw_NCHW), -1), order_ND, axis=1)
    files = {"lambda, robust": raw_NCHW, "lambda, permuted": permuted_ND.reshape(raw_NCHW.shape)}
    for name, maps_NCHW in files.items():
        np.save(Path(folder) / f"{name}.npy", maps_NCHW)
    return {name: str(Path(folder) / f"{name}.npy") for name in files}


def known(file: Path) -> set[tuple[str, str, str]]:
    """(curve, strength, seed) of the rows in the file; an empty one is begun with its header."""
    if not file.exists():
        file.write_text(",".join(COLUMNS) + "\n")
    with file.open() as lines:
        return {(row["curve"], row["strength"], row["seed"]) for row in csv.DictReader(lines)}


def record(file: Path, setting: Mapping[str, Any], curves: list[str], strengths: list[str], seeds: int) -> None:
    """Append every row of the curves that the file lacks, each as soon as it is made."""
    done = known(file)
    with tempfile.TemporaryDirectory() as folder:
        maps = make_maps(setting, folder) if set(curves) - {"lambda_j"} else {}
        arms: dict[str, tuple[type[MethodTrainable], str, dict[str, str]]] = {
            name: (InterpretationTrainable, "lambda", {"maps": path}) for name, path in maps.items()
        }
        arms["lambda_j"] = (JacobianTrainable, "lambda_j", {})
        wanted = [(name, strength, str(seed)) for name in curves for strength in strengths for seed in range(seeds)]
        for name, strength, seed in wanted:
            if (name, strength, seed) in done:
                continue
            kind, parameter, own = arms[name]
            config = {**setting, **own, "seed": int(seed), parameter: float(strength)}
            _, loss = trained(kind, config)
            with file.open("a") as lines:
                csv.writer(lines, lineterminator="\n").writerow((name, strength, seed, f"{loss:.6g}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES)
    parser.add_argument("--images", type=int, default=1000, help="training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--strengths", type=int, default=12, help=f"in equal steps of the logarithm, {LOW:g} to {HIGH:g}"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    setting = {
        "data": {
            "name": "mnist",
            "root": os.environ.get("TUNE_INTERPREG_DATA"),
            "train_limit": given.images,
            "validation": 100,
        },
        "model": "mnist_cnn",
        "training": {"epochs": given.epochs, "batch_size": 25, "lr": 0.02},
        "attack": {"eps": 1.5, "steps": 5},
        "evaluation": {"steps": 1},
        "device": given.device,
    }
    strengths = [f"{strength:.5g}" for strength in np.geomspace(LOW, HIGH, given.strengths)]
    record(given.file, setting, given.curves, strengths, given.seeds)


if __name__ == "__main__":
    main()
