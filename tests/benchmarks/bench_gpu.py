"""Five seeds on one GPU: captured side by side, against five uncaptured trainings one after another, in one process.

MNIST's net, B = 64, for standard training, adversarial training (PGD-40, l2 1.5) and interpretation regularization, in
float32 and TF32. Both rivals are this code: the same terms, streams and update. The rivals take turns, an epoch each;
then it is seen whether each seed has the same bits in both, and what TF32 does to PGD and to the penalties. Progress
goes to standard error, so the dated result beside this file is made by

    python tests/benchmarks/bench_gpu.py --data-root DATA > tests/benchmarks/gpu.md

Without --data-root the images are made up: ten patterns under noise. On a machine without a GPU `--device cpu` goes
through the same code with a few images and judges nothing. Exit codes: 0 all goals are met or none was judged, 1 one
is not.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from torch import Tensor, nn

from tune_interpreg import registry, seeding
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.data import dataset as data
from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.evaluation import measures as evaluation
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.piecewise_linear import linearize
from tune_interpreg.study.config import Attack, Data, Model, Training
from tune_interpreg.study.items import Recipe
from tune_interpreg.training import device as gpu
from tune_interpreg.training.trainer import Guidance, Trainer

SHAPE, CLASSES = (1, 28, 28), 10
METHODS: dict[str, dict[str, Any]] = {
    "standard": {},
    "adversarial": {"mode": "train"},
    "interpretation": {"lambda": 0.07, "phi": 1.0},
}

#: By method and precision, how many times faster five captured seeds are to be than five uncaptured ones.
GOALS = {
    ("adversarial", "float32"): 6.0,
    ("adversarial", "tf32"): 12.0,
    ("standard", "float32"): 8.0,
    ("interpretation", "float32"): 8.0,
}


@dataclass(frozen=True)
class Size:
    """seeds: how many. steps: of an epoch. batch: B. attack: PGD's steps. rounds: timed epochs of each rival.

    judged: images that accuracies rest on.
    """

    seeds: int
    steps: int
    batch: int
    attack: int
    rounds: int
    judged: int


SIZES = {"cuda": Size(5, 100, 64, 40, 5, 1000), "cpu": Size(2, 2, 8, 2, 1, 20)}


@dataclass
class Found:
    """ms of a step of all seeds, by round, captured and uncaptured; how far their weights are apart, by seed.

    models: of the captured seeds.
    """

    captured_ms: list[float]
    alone_ms: list[float]
    apart: dict[int, float]
    models: dict[int, nn.Module]
    replayed: bool
    bytes_a_seed: int | None

    @property
    def ratio(self) -> float:
        return statistics.median(self.alone_ms) / statistics.median(self.captured_ms)


# ----------------------------------------------------------------------- the rivals
def images(root: str | None, size: Size, device: str) -> Dataset:
    """MNIST's, or made-up ones; as many to train on as an epoch takes."""
    wanted = size.steps * size.batch
    if root is not None:
        loaded = data.load(Data(name="mnist", root=root, train_limit=wanted, validation=size.judged))
        train, validation = loaded.train, loaded.validation
    else:
        drawn = seeding.generator(0, "benchmark")
        patterns = torch.rand(CLASSES, *SHAPE, generator=drawn)
        y_N = torch.arange(wanted + size.judged) % CLASSES
        x_NCHW = 0.3 * patterns[y_N] + 0.7 * torch.rand(len(y_N), *SHAPE, generator=drawn)
        train, validation = (
            Split(x_NCHW[size.judged :], y_N[size.judged :]),
            Split(x_NCHW[: size.judged], y_N[: size.judged]),
        )
    return Dataset(train.to(device), validation.to(device), CLASSES, SHAPE, "")


def trainer(name: str, precision: str, seeds: Sequence[int], given: Dataset, size: Size, *, capture: bool) -> Trainer:
    """A method's training, without Ray."""
    kind = registry.method(name)
    method = kind.__new__(kind)
    defaults = {key: parameter.default for key, parameter in kind.parameters.items()}
    method.params, method.recipe = defaults | METHODS[name], Recipe(method=name, attack=Attack(steps=size.attack))
    maps_NCHW = torch.rand(given.train.x_NCHW.shape, generator=seeding.generator(0, "maps")).to(given.train.y_N.device)
    return Trainer(
        model=Model(name="mnist_cnn"),
        training=Training(batch_size=size.batch, matmul=precision),
        data=given,
        terms=method.terms,
        seeds=seeds,
        guidance=Guidance(dict.fromkeys(seeds, maps_NCHW.half()), method.target) if kind.needs_targets else None,
        device=given.train.y_N.device,
        capture=capture,
    )


def compared(name: str, precision: str, given: Dataset, size: Size) -> Found:
    """Both rivals, an epoch each in turn; the first, in which steps are captured, is not timed."""
    seeds, device = range(size.seeds), str(given.train.y_N.device)
    gc.collect()  # the graphs of what was compared before
    gpu.forget_peak(device)
    together = trainer(name, precision, seeds, given, size, capture=True)
    together.run_epoch()
    held = gpu.peak_bytes(device)
    alone = [trainer(name, precision, (seed,), given, size, capture=False) for seed in seeds]
    _epoch_ms(alone)
    times = [(_epoch_ms([together]), _epoch_ms(alone)) for _ in range(size.rounds)]
    mine, theirs = together.state(), {key: tensor for one in alone for key, tensor in one.state().items()}
    return Found(
        captured_ms=[captured / size.steps for captured, _ in times],
        alone_ms=[uncaptured / size.steps for _, uncaptured in times],
        apart={seed: _apart(mine, theirs, seed) for seed in seeds},
        models={replica.seed: replica.model for replica in together.replicas},
        replayed=together.engine.captured,
        bytes_a_seed=held // size.seeds if held else None,
    )


def _epoch_ms(trainers: Sequence[Trainer]) -> float:
    """An epoch of all, one after another; each ends by reading its terms, and so waits for the GPU."""
    started = time.perf_counter()
    for one in trainers:
        one.run_epoch()
    return 1000 * (time.perf_counter() - started)


def _apart(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], seed: int) -> float:
    """The largest difference of a weight or momentum of the seed; 0 where all bits agree."""
    own = [name for name in mine if name.startswith(f"{seed}/")]
    return max(float((mine[name] - theirs[name]).abs().max()) for name in own)


# ------------------------------------------------------------------- what TF32 does
def accuracies(models: Mapping[int, nn.Module], given: Dataset, size: Size, precision: str) -> dict[int, float]:
    """By seed the strict adversarial accuracy, in percent, where the attack multiplies in ``precision``."""
    attack = Attack(steps=size.attack)
    with gpu.multiplying(precision):
        return {
            seed: 100
            * evaluation.adversarial_accuracy(
                model, given.validation, attack=attack, form="strict", seed=seed, batch_size=500
            )
            for seed, model in models.items()
        }


@torch.no_grad()
def penalty_values(model: nn.Module, given: Dataset, size: Size, precision: str) -> dict[str, float]:
    """Each penalty at the same images, in eval mode, multiplied in ``precision``."""
    few = given.validation.at(slice(size.batch))
    x_BCHW = data.pixels(few.x_NCHW)
    target_BCHW = torch.rand(x_BCHW.shape, generator=seeding.generator(0, "maps")).to(x_BCHW.device)
    with gpu.multiplying(precision), evaluation.eval_mode(model):
        z_BK, adjoint = linearize(model, x_BCHW)
        g_BCHW = penalties.label_gradient(adjoint, few.y_N, z_BK)
        d_BCHW = penalties.cross_entropy_gradient(adjoint, few.y_N, z_BK)
        return {
            "‖I − abs(g)‖": float(penalties.interpretation(target_BCHW, g_BCHW)),
            "‖J‖_F": float(penalties.jacobian(adjoint, z_BK)),
            "‖∂CE/∂x‖": float(penalties.magnitude(d_BCHW)),
            "1 − cos(I, g)": float(penalties.cosine(target_BCHW, g_BCHW)),
        }


def moved(model: nn.Module, given: Dataset, size: Size) -> float:
    """The mean l2 distance of PGD's last iterates in TF32 from those in float32, from the same starts."""
    few = given.validation.at(slice(size.batch))
    ends = []
    for precision in gpu.PRECISIONS:
        with gpu.multiplying(precision), evaluation.eval_mode(model):
            drawn = seeding.generator(0, "starts", few.y_N.device)
            x_BCHW = data.pixels(few.x_NCHW)
            ends.append(attacks.perturb(model, x_BCHW, few.y_N, attack=Attack(steps=size.attack), generator=drawn))
    return float((ends[0] - ends[1]).flatten(1).norm(dim=1).mean())


# ------------------------------------------------------------------------- the page
def heading(device: str, root: str | None, size: Size) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    what = "MNIST" if root else "made-up images"
    judged = (
        "" if device == "cuda" else "\nA walk through the code without a GPU: nothing is captured, no goal is judged.\n"
    )
    return (
        f"# Five seeds on one GPU\n\n{date.today()}, {where}, {versions}, {what}. MNIST's net, B = {size.batch}, "
        f"{size.seeds} seeds, epochs of {size.steps} steps, PGD of {size.attack} steps. Median (and range); "
        f"epochs timed: {size.rounds}.\n{judged}"
    )


def times(found: Mapping[tuple[str, str], Found], judged: bool) -> tuple[list[str], bool]:
    """The table of times, and whether all goals are met."""
    lines = [
        "| method | precision | all seeds captured, ms a step | one after another, ms a step | ratio | goal "
        "| same bits | largest difference | GPU memory a seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    met = True
    for (name, precision), one in found.items():
        goal = GOALS.get((name, precision)) if judged else None
        reached = goal is None or one.ratio >= goal
        met = met and reached
        told = "" if goal is None else f"{goal:g}, {'PASS' if reached else 'MISSED'}"
        same, held = sum(apart == 0 for apart in one.apart.values()), one.bytes_a_seed
        lines.append(
            f"| {name} | {precision} | {_spread(one.captured_ms)}{'' if one.replayed else ' (not captured)'} "
            f"| {_spread(one.alone_ms)} | {one.ratio:.1f} | {told} | {same} of {len(one.apart)} seeds "
            f"| {max(one.apart.values()):.1e} | {f'{held / 2**20:,.0f} MiB' if held else ''} |"
        )
    return lines, met


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def effects(found: Mapping[tuple[str, str], Found], given: Dataset, size: Size) -> list[str]:
    """What TF32 changes: accuracies under PGD by training's and the attack's precision, and penalties of one model."""
    lines = [
        "",
        "| adversarially trained in | attacked in | adversarial accuracy, %, by seed | mean |",
        "|---|---|---|---|",
    ]
    for trained in gpu.PRECISIONS:
        for attacked in gpu.PRECISIONS:
            by_seed = accuracies(found["adversarial", trained].models, given, size, attacked).values()
            told = ", ".join(f"{one:.1f}" for one in by_seed)
            lines.append(f"| {trained} | {attacked} | {told} | {statistics.fmean(by_seed):.2f} |")
    model = found["adversarial", "float32"].models[0]
    lines += ["", f"PGD's last iterates in TF32 lie {moved(model, given, size):.1e} (l2, mean) from those in float32."]
    exact, rounded = (penalty_values(model, given, size, precision) for precision in gpu.PRECISIONS)
    lines += ["", "| penalty | float32 | TF32 | relative difference |", "|---|---|---|---|"]
    for name, value in exact.items():
        lines.append(f"| {name} | {value:.6g} | {rounded[name]:.6g} | {abs(rounded[name] - value) / abs(value):.1e} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(SIZES), default="cuda")
    parser.add_argument("--data-root", help="the folder that holds MNIST/raw")
    asked = parser.parse_args(arguments)
    size = SIZES[asked.device]
    given = images(asked.data_root, size, asked.device)
    found = {}
    for precision in gpu.PRECISIONS:
        for name in METHODS:
            print(f"{name}, {precision} …", file=sys.stderr, flush=True)
            found[name, precision] = compared(name, precision, given, size)
    table, met = times(found, judged=asked.device == "cuda")
    print(heading(asked.device, asked.data_root, size), *table, *effects(found, given, size), sep="\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
