"""Time training steps, attacks and maps on a CPU, next to the least operations, textbook PyTorch and libraries.

    make bench                                                   # writes steps.md next to this file
    python tests/benchmarks/bench_steps.py --torchattacks FOLDER

torchattacks pins an old version of requests that conflicts with Ray's. Install it into its own folder with
``pip install --no-deps --target FOLDER torchattacks``; without it the page says so. Exit code 1: a goal is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import steps_textbook as textbook
import torch
from steps_cases import CASES
from steps_floor import Timed, pool_processes, product_rows, time_rows
from steps_report import goals, page

#: Processes that run at the same time with one thread each, as the workers of a study do.
PROCESSES = os.cpu_count() or 1


def time_nets(options: argparse.Namespace) -> dict[str, list[Timed]]:
    """Time all rows of the nets in this process. The matrix products run before and after each net."""
    installed, results = textbook.has_torchattacks(options.torchattacks), {}
    for net in options.nets:
        rows = replace(CASES[net], torchattacks=installed).rows()
        before = time_rows(product_rows(), 2 * options.rounds)
        results[net] = [*before, *time_rows(rows, options.rounds), *time_rows(product_rows(), 2 * options.rounds)]
    return results


def measure(options: argparse.Namespace) -> dict[str, dict[str, Timed]]:
    """Return the pooled rows of each net from processes that run at the same time."""
    command = [sys.executable, __file__, "--worker", "--rounds", str(options.rounds), "--nets", *options.nets]
    command += ["--torchattacks", str(options.torchattacks)] if options.torchattacks else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(PROCESSES)]
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError("a timing process failed; see its error above")
    parts = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {net: pool_processes([Timed(**row) for row in part[net]] for part in parts) for net in options.nets}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.worker:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")  # of captum and foolbox
        results = time_nets(options)
        print(json.dumps({net: [asdict(row) for row in rows] for net, rows in results.items()}))
        return 0
    textbook.has_torchattacks(options.torchattacks)  # makes its version known
    load, nets = os.getloadavg()[0], measure(options)
    print(page(nets, load=load, processes=PROCESSES), end="")
    return 0 if all(met for met, _ in goals(nets)) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2, help="per rival, after one that does not count")
    parser.add_argument("--torchattacks", type=Path, help="folder that holds torchattacks")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
