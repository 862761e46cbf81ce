"""Time the measures of interpretability on a CPU, next to a forward and ten steps of PGD, in one process.

    python tests/benchmarks/bench_interpretability.py > tests/benchmarks/interpretability.md

Takes about two minutes. Exit code 1: a goal is missed.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from steps_cases import CASES, CLASSES
from steps_report import describe_machine
from torch import nn

from tune_interpreg import seeding
from tune_interpreg.attacks import pgd
from tune_interpreg.data.dataset import Split
from tune_interpreg.evaluation.interpretability import check_randomization, measure_interpretability
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.study.config import Attack
from tune_interpreg.training.device import keep_freed_memory

IMAGES, STEPS = 128, 10

FORWARD, ATTACK = "forward", f"PGD, {STEPS} steps"
MEASURES, ALL, CHECK = "all measures but deletion", "all measures", "randomization check"

Calls = Mapping[str, Callable[[], object]]


def calls(net: nn.Module, shape: tuple[int, int, int]) -> Calls:
    """Return the rivals on the same images. A model with random weights takes as long as a trained one."""
    draws = seeding.generator(0, "images")
    x = torch.rand(IMAGES, *shape, generator=draws)
    split = Split(x, torch.randint(CLASSES, (IMAGES,), generator=draws))
    maps = {name: torch.rand(x.shape, generator=draws) for name in ("teacher", "other")}
    measure = partial(measure_interpretability, net, split, maps=maps, seed=0, batch_size=IMAGES)
    attack = Attack(norm="l2", eps=1.5, steps=STEPS)
    return {
        FORWARD: torch.no_grad()(lambda: net(x)),
        ATTACK: partial(pgd.perturb, net, x, split.y_N, attack=attack, generator=draws),
        MEASURES: partial(measure, with_deletion=False),
        ALL: measure,
        CHECK: partial(check_randomization, Subject(net, split, attack, seed=0, batch_size=IMAGES)),
    }


def time_calls(rivals: Calls, rounds: int) -> dict[str, list[float]]:
    """Return the processor times of each rival, in ms per image. They take turns; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(rounds + 1):
        for name, call in rivals.items():
            start = time.process_time()
            call()
            if turn:
                times[name].append(1000 * (time.process_time() - start) / IMAGES)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    load, missed, lines = os.getloadavg()[0], 0, []
    for net in options.nets:
        case = CASES[net]
        times = time_calls(calls(case.net.eval(), case.shape), options.rounds)
        medians = {name: statistics.median(values) for name, values in times.items()}
        met = medians[MEASURES] < medians[ATTACK]
        missed += not met
        ratio = f"{medians[MEASURES] / medians[ATTACK]:.2f} of the time"
        lines += [f"## {net}", "", f"**{'PASS' if met else 'MISSED'}** {MEASURES}, under {ATTACK}: {ratio}.", ""]
        lines += ["| call | ms per image, median [fastest, slowest] | forwards |", "|---|---:|---:|"]
        for name, values in times.items():
            spread = f"{medians[name]:.3f} [{min(values):.3f}, {max(values):.3f}]"
            lines.append(f"| {name} | {spread} | {medians[name] / medians[FORWARD]:.1f} |")
        lines.append("")
    print("# Measures of interpretability on a CPU", "", sep="\n")
    print(f"{describe_machine('torch', 'torchvision')}; load average {load:.1f} before.", "", sep="\n")
    print(f"n = {options.rounds} rounds of {IMAGES} images, two maps each; processor time of one thread.", "", sep="\n")
    print(*lines, EXPLANATION, sep="\n")
    return 1 if missed else 0


EXPLANATION = """\
Calls take turns in one process, and the first round does not count. An image takes 7 forwards and 7 adjoints of about
the same length: one each for z and g, two adjoints for the norms, and five each for the noisy copies. The rest
is mostly sorting, for Gini and Spearman. Deletion takes 38 more forwards. The randomization check runs once per model:
3 forwards and 3 adjoints, and sorting."""


if __name__ == "__main__":
    sys.exit(main())
