"""Train at one strength after another and record the training loss: the curves that bench_matching.py searches.

Three curves on a part of MNIST: λ of interpretation regularization with an adversarial teacher's maps, λ with the same
maps permuted, and λ_J. A row is one training: curve, strength, seed, and the mean loss over its last epoch. Rows that
the file already holds are not computed again.

    TUNE_INTERPREG_DATA=DATA python tests/benchmarks/record_curves.py
"""

import argparse
import csv
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from trainables import AdversarialTrainable, InterpretationTrainable, JacobianTrainable, MethodTrainable
from tune_interpreg import seeding
from tune_interpreg.data.dataset import to_pixels
from tune_interpreg.gradients import saliency
from tune_interpreg.study.config import MapSettings
from tune_interpreg.study.metric_names import TRAIN_LOSS
from tune_interpreg.training.trainer import Diverged

FILE = Path(__file__).with_name("matching_curves.csv")
CURVES = ["lambda, robust", "lambda, permuted", "lambda_j"]
LOW, HIGH = 1e-3, 10.0
BLOCK = 256  # images per call of SmoothGrad


def train(kind: type[MethodTrainable], config: Mapping[str, Any]) -> tuple[MethodTrainable, float]:
    """Return the Trainable after its last epoch, and that epoch's loss; inf if it diverged."""
    trainable, loss = kind(dict(config)), float("inf")
    with suppress(Diverged):
        losses = [float(trainable.step()[TRAIN_LOSS]) for _ in range(trainable.recipe.training.epochs)]
        loss = losses[-1]
    trainable.cleanup()
    shutil.rmtree(trainable.logdir)  # outside a Tuner, a Trainable logs into the user's home folder
    return trainable, loss


def make_maps(config: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write the SmoothGrad maps of an adversarially trained teacher, unchanged and permuted, and return their files."""
    teacher, _ = train(AdversarialTrainable, config)
    (replica,) = teacher.trainer.replicas
    images, generator = teacher.data.train, seeding.generator(0, "smoothgrad")
    settings = {"settings": MapSettings(), "generator": generator, "chunk": 1}
    batches = zip(images.x_NCHW.split(BLOCK), images.y_N.split(BLOCK), strict=True)
    blocks = [saliency.smoothgrad(replica.model.eval(), to_pixels(x), y, **settings).numpy() for x, y in batches]
    raw_NCHW = np.concatenate(blocks)
    order_ND = np.argsort(np.random.default_rng(0).random((len(raw_NCHW), raw_NCHW[0].size)), axis=1)
    permuted_ND = np.take_along_axis(raw_NCHW.reshape(len(raw_NCHW), -1), order_ND, axis=1)
    files = {name: folder / f"{name}.npy" for name in ("lambda, robust", "lambda, permuted")}
    for file, maps_NCHW in zip(files.values(), (raw_NCHW, permuted_ND.reshape(raw_NCHW.shape)), strict=True):
        np.save(file, maps_NCHW)
    return files


def record(file: Path, setting: Mapping[str, Any], strengths: list[str], seeds: int) -> None:
    """Append each row of the curves that the file lacks, as soon as it is computed."""
    if not file.exists():
        file.write_text("curve,strength,seed,loss\n")
    done = {tuple(row[:3]) for row in csv.reader(file.read_text().splitlines())}
    with tempfile.TemporaryDirectory() as folder:
        maps = make_maps(setting, Path(folder))
        for curve, strength, seed in product(CURVES, strengths, range(seeds)):
            if (curve, strength, str(seed)) in done:
                continue
            if curve == "lambda_j":
                kind, params = JacobianTrainable, {"lambda_j": float(strength)}
            else:
                kind, params = InterpretationTrainable, {"lambda": float(strength), "maps": str(maps[curve])}
            _, loss = train(kind, {**setting, **params, "seed": seed})
            with file.open("a") as lines:
                csv.writer(lines, lineterminator="\n").writerow((curve, strength, seed, f"{loss:.6g}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--images", type=int, default=1000, help="training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--strengths", type=int, default=12, help=f"number, log-spaced from {LOW:g} to {HIGH:g}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    root = os.environ.get("TUNE_INTERPREG_DATA")
    setting = {
        "data": {"name": "mnist", "root": root, "train_limit": options.images, "validation": 100},
        "model": "mnist_cnn",
        "training": {"epochs": options.epochs, "batch_size": 25, "lr": 0.02},
        "attack": {"eps": 1.5, "steps": 5},
        "evaluation": {"steps": 1},
        "device": options.device,
    }
    strengths = [f"{strength:.5g}" for strength in np.geomspace(LOW, HIGH, options.strengths)]
    record(options.file, setting, strengths, options.seeds)


if __name__ == "__main__":
    main()
