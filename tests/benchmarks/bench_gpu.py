"""Time five captured seeds on one GPU against five uncaptured trainings one after another, in one process.

MNIST's network, B = 64, with standard training, adversarial training (PGD-40, l2 1.5) and interpretation
regularization, in float32 and TF32. Both rivals run this code with the same terms, streams and update, and take turns
per epoch. Then the page reports whether each seed has the same bits in both, and the effect of TF32 on adversarial
accuracy. Progress goes to standard error; the dated page next to this file is made by

    python tests/benchmarks/bench_gpu.py --data-root DATA > tests/benchmarks/gpu.md

Without --data-root the images are synthetic: ten patterns with noise. Without a GPU, ``--device cpu`` runs the same
code on a few images and judges no goal. Exit code 1: a goal is missed.
"""

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn

from tune_interpreg import registry, seeding
from tune_interpreg.data.dataset import Dataset, Split, load_dataset
from tune_interpreg.evaluation.measures import measure_adversarial_accuracy
from tune_interpreg.study.config import Attack, Data, Model, Training
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.training.device import PRECISIONS, matmul_precision, read_peak_memory, reset_peak_memory
from tune_interpreg.training.trainer import Guidance, Trainer

SHAPE, CLASSES = (1, 28, 28), 10
METHODS: dict[str, dict[str, Any]] = {
    "standard": {},
    "adversarial": {"mode": "train"},
    "interpretation": {"lambda": 0.07, "phi": 1.0},
}

#: The least speed-up of five captured seeds over five uncaptured ones.
GOALS = {
    ("adversarial", "float32"): 6.0,
    ("adversarial", "tf32"): 12.0,
    ("standard", "float32"): 8.0,
    ("interpretation", "float32"): 8.0,
}


@dataclass(frozen=True)
class Size:
    """attack: PGD's steps. rounds: timed epochs per rival. judged: number of images for accuracies."""

    seeds: int
    steps: int
    batch: int
    attack: int
    rounds: int
    judged: int


SIZES = {"cuda": Size(5, 100, 64, 40, 5, 1000), "cpu": Size(2, 1, 8, 1, 1, 10)}


@dataclass
class Comparison:
    """Milliseconds per step of all seeds, by round; the weights' largest difference by seed; the captured models."""

    captured_ms: list[float]
    alone_ms: list[float]
    apart: dict[int, float]
    models: dict[int, nn.Module]
    replayed: bool
    bytes_per_seed: int | None


Comparisons = Mapping[tuple[str, str], Comparison]


# ----------------------------------------------------------------- the rivals
def load_images(root: str | None, size: Size, device: str) -> Dataset:
    """Return MNIST's images or synthetic ones, with as many for training as an epoch takes."""
    images = size.steps * size.batch
    if root is not None:
        loaded = load_dataset(Data(name="mnist", root=root, train_limit=images, validation=size.judged))
        train, validation = loaded.train, loaded.validation
    else:
        generator = seeding.generator(0, "benchmark")
        patterns = torch.rand(CLASSES, *SHAPE, generator=generator)
        y_N = torch.arange(images + size.judged) % CLASSES
        x_NCHW = 0.3 * patterns[y_N] + 0.7 * torch.rand(len(y_N), *SHAPE, generator=generator)
        split = Split(x_NCHW, y_N)
        train, validation = split.at(slice(size.judged, None)), split.at(slice(size.judged))
    return Dataset(train.to(device), validation.to(device), CLASSES, SHAPE, "")


def trainer(name: str, precision: str, seeds: Sequence[int], data: Dataset, size: Size, *, capture: bool) -> Trainer:
    """Return a method's training, without Ray."""
    kind = registry.load_method(name)
    method = kind.__new__(kind)
    defaults = {key: parameter.default for key, parameter in kind.parameters.items()}
    method.params, method.recipe = defaults | METHODS[name], Recipe(method=name, attack=Attack(steps=size.attack))
    maps_NCHW = torch.rand(data.train.x_NCHW.shape, generator=seeding.generator(0, "maps")).to(data.train.y_N.device)
    return Trainer(
        model=Model(name="mnist_cnn"),
        training=Training(batch_size=size.batch, matmul=precision),
        data=data,
        terms=method.terms,
        seeds=seeds,
        guidance=Guidance(dict.fromkeys(seeds, maps_NCHW.half()), method.target) if kind.needs_targets else None,
        device=data.train.y_N.device,
        capture=capture,
    )


def compare(name: str, precision: str, data: Dataset, size: Size) -> Comparison:
    """Run both rivals one epoch each in turn. The first epoch, which captures the steps, is not timed."""
    seeds, device = range(size.seeds), str(data.train.y_N.device)
    gc.collect()  # frees the graphs of the previous comparison
    reset_peak_memory(device)
    together = trainer(name, precision, seeds, data, size, capture=True)
    together.run_epoch()
    peak = read_peak_memory(device)
    alone = [trainer(name, precision, (seed,), data, size, capture=False) for seed in seeds]
    _time_epoch(alone)
    times = [(_time_epoch([together]), _time_epoch(alone)) for _ in range(size.rounds)]
    state, apart = together.state(), {}
    for seed, engine in zip(seeds, alone, strict=True):
        apart[seed] = max(float((state[name] - tensor).abs().max()) for name, tensor in engine.state().items())
    return Comparison(
        captured_ms=[captured / size.steps for captured, _ in times],
        alone_ms=[uncaptured / size.steps for _, uncaptured in times],
        apart=apart,
        models={replica.seed: replica.model for replica in together.replicas},
        replayed=together.engine.captured,
        bytes_per_seed=peak // size.seeds if peak else None,
    )


def _time_epoch(trainers: Sequence[Trainer]) -> float:
    """Return the milliseconds of one epoch of all. Each ends by reading its terms, and so waits for the GPU."""
    started = time.perf_counter()
    for engine in trainers:
        engine.run_epoch()
    return 1000 * (time.perf_counter() - started)


# ------------------------------------------------------------------- the page
def heading(device: str, root: str | None, size: Size) -> str:
    machine = torch.cuda.get_device_name() if device == "cuda" else "a test run without a GPU: nothing is captured"
    images = "MNIST" if root else "synthetic images"
    return (
        f"# Five seeds on one GPU\n\n{date.today()}, {machine}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {images}. MNIST's network, B = {size.batch}, {size.seeds} seeds, epochs of {size.steps} "
        f"steps, PGD of {size.attack} steps. Median (range) of {size.rounds} epochs.\n"
    )


def time_table(comparisons: Comparisons, judged: bool) -> tuple[list[str], bool]:
    """Return the table of times, and whether all goals are met."""
    lines = [
        "| method | precision | all seeds captured, ms per step | one after another, ms per step | ratio | goal "
        "| same bits | largest difference | GPU memory per seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    all_met = True
    for (name, precision), result in comparisons.items():
        goal = GOALS.get((name, precision)) if judged else None
        ratio = statistics.median(result.alone_ms) / statistics.median(result.captured_ms)
        met = goal is None or ratio >= goal
        all_met = all_met and met
        verdict = "" if goal is None else f"{goal:g}, {'PASS' if met else 'MISSED'}"
        same, memory = sum(apart == 0 for apart in result.apart.values()), result.bytes_per_seed
        lines.append(
            f"| {name} | {precision} | {_spread(result.captured_ms)}{'' if result.replayed else ' (not captured)'} "
            f"| {_spread(result.alone_ms)} | {ratio:.1f} | {verdict} | {same} of {len(result.apart)} seeds "
            f"| {max(result.apart.values()):.1e} | {f'{memory / 2**20:,.0f} MiB' if memory else ''} |"
        )
    return lines, all_met


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def accuracy_table(comparisons: Comparisons, data: Dataset, size: Size) -> list[str]:
    """Return the strict adversarial accuracies by the precision of the training and of the attack."""
    lines = ["", "| adversarially trained in | attacked in | adversarial accuracy, %, by seed | mean |"]
    lines += ["|---|---|---|---|"]
    attack = Attack(steps=size.attack)
    measure = partial(measure_adversarial_accuracy, split=data.validation, attack=attack, form="strict", batch_size=500)
    for trained, attacked in product(PRECISIONS, PRECISIONS):
        models = comparisons["adversarial", trained].models
        with matmul_precision(attacked):
            by_seed = [100 * measure(model, seed=seed) for seed, model in models.items()]
        values = ", ".join(f"{accuracy:.1f}" for accuracy in by_seed)
        lines.append(f"| {trained} | {attacked} | {values} | {statistics.fmean(by_seed):.2f} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(SIZES), default="cuda")
    parser.add_argument("--data-root", help="the folder that holds MNIST/raw")
    options = parser.parse_args(arguments)
    size = SIZES[options.device]
    data = load_images(options.data_root, size, options.device)
    comparisons = {}
    for precision in PRECISIONS:
        for name in METHODS:
            print(f"{name}, {precision} …", file=sys.stderr, flush=True)
            comparisons[name, precision] = compare(name, precision, data, size)
    table, met = time_table(comparisons, judged=options.device == "cuda")
    print(heading(options.device, options.data_root, size), *table, *accuracy_table(comparisons, data, size), sep="\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
