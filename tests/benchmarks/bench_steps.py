"""What training steps, attacks and maps cost on a CPU, beside the fewest operations, textbook PyTorch and libraries.

    make bench                                                   # writes steps.md beside this file
    python tests/benchmarks/bench_steps.py --torchattacks FOLDER

torchattacks pins an old version of requests, which clashes with Ray's, so that it lies in a folder of its own:
``pip install --no-deps --target FOLDER torchattacks``; without it its column says so. Exit code 1: a goal is missed.
"""

from __future__ import annotations

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
from steps_cases import CASES, case
from steps_floor import Timed, pooled, products, timed
from steps_ideas import ideas
from steps_report import page, verdicts

#: Name → processes at a time, and the threads of each: as a study's workers run on two cores, and the other way.
WAYS = {"one process a core": (2, 1), "one process": (1, 2)}


def work(options: argparse.Namespace) -> dict[str, list[Timed]]:
    """Time all rows of the nets in this process; the machine's matrix products before each net and after it."""
    there, found = textbook.has_torchattacks(options.torchattacks), {}
    for net in options.nets:
        rows = case(net, there).rows()
        if options.alone:
            rows = (replace(row, calls={"ours": row.calls["ours"]}) for row in rows)
        before = timed(products(), 2 * options.rounds)
        found[net] = [*before, *timed(rows, options.rounds), *timed(products(), 2 * options.rounds)]
        if not options.alone:
            found[net] += timed(ideas(CASES[net]), options.rounds)
    return found


def measure(way: str, options: argparse.Namespace) -> dict[str, dict[str, Timed]]:
    """The rows of each net, of processes that run side by side."""
    processes, threads = WAYS[way]
    judged = way == options.ways[0]
    command = [sys.executable, __file__, "--worker", str(threads), "--rounds", str(options.rounds)]
    command += ["--nets", *options.nets, *([] if judged else ["--alone"])]
    command += ["--torchattacks", str(options.torchattacks)] if options.torchattacks else []
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(processes)]
    told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a timing process failed; its error stands above")
    parts = [json.loads(text.splitlines()[-1]) for text in told]
    return {net: pooled([Timed(**row) for row in part[net]] for part in parts) for net in options.nets}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.worker:
        torch.set_num_threads(options.worker)
        warnings.simplefilter("ignore")  # captum's and foolbox's own
        found = work(options)
        print(json.dumps({net: [asdict(row) for row in rows] for net, rows in found.items()}))
        return 0
    textbook.has_torchattacks(options.torchattacks)  # for its version
    load, results = os.getloadavg()[0], {}
    for way in options.ways:
        print(f"{way} …", file=sys.stderr, flush=True)
        results[way] = measure(way, options)
    print(page(results, load=load, threads=WAYS), end="")
    return 0 if all(met for met, _ in verdicts(results[options.ways[0]])) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the first one is judged")
    parser.add_argument("--rounds", type=int, default=2, help="of each rival, after one that does not count")
    parser.add_argument("--torchattacks", type=Path, help="folder that torchattacks lies in")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
