"""Time a training step of every method on mnist_cnn as a multiple of a standard step.

    python tests/benchmarks/bench_costs.py [ROUNDS]

The methods take turns in one process with one thread. Each ratio is that of the least processor times, because other
processes share the machine. Prints the entries of ``study/file/step_costs.py``.
"""

import os
import sys

import torch
from steps_cases import CASES, FEW
from steps_floor import Row, time_rows

from tune_interpreg import registry


def main(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    case, names = CASES["mnist_cnn"], registry.names("methods")
    together = Row("steps", 0.0, {name: case.step(name).calls["ours"] for name in names})
    load = os.getloadavg()[0]
    (timed,) = time_rows([together], rounds)
    least = {name: min(processor for processor, _ in pairs) for name, pairs in timed.seconds.items()}
    standard = least["standard"]
    print(f"# {rounds} rounds, batch {case.batch}, {FEW} steps of attack, load {load:.0f}; standard {standard:.4f} s")
    for name in names:
        floor = case.work(name) / case.work("standard")
        print(f'    "{name}": StepCost({floor:.1f}, {least[name] / standard:.1f}),')


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
