"""The page of the step benchmark: goals, then per net a table of times next to floors and rivals."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from steps_floor import CPU, WALL, Timed, machine_rate

#: The least share of the machine's rate, by the beginning of a row's name.
SHARES = {"standard": 0.75, "interpretation": 0.75, "PGD": 0.75, "SmoothGrad": 0.75, "jacobian": 0.6}

#: The least ratio of a rival's time to ours, by row and rival.
RATIOS = {
    ("jacobian", "repeated batch"): 2.5,
    ("jacobian", "batched double backpropagation"): 1.5,
    ("PGD", "foolbox"): 1.3,
    ("PGD", "torchattacks"): 1.3,
    ("SmoothGrad", "captum"): 1.0,
    ("an epoch", "DataLoader"): 1.15,
}

#: The least speed-up by bfloat16.
SPEEDUPS = {"PGD": 1.6, "SmoothGrad": 1.6}

PACKAGES = ("torch", "torchvision", "captum", "foolbox", "torchattacks")
Nets = Mapping[str, Mapping[str, Timed]]


def goals(nets: Nets) -> Iterator[tuple[bool, str]]:
    """Yield whether each goal is met, and the goal with its number. Rivals that are not installed have no goal."""
    for net, rows in nets.items():
        for name, least in SHARES.items():
            row = _find_row(rows, name)
            share = row.operations / row.median() / machine_rate(rows)
            yield share >= least, f"{net}, {row.name}: at least {least:.0%} of the machine's rate: {share:.0%}"
        for (name, rival), least in RATIOS.items():
            row = _find_row(rows, name)
            if rival in row.seconds:
                ratio = row.ratio(rival)
                yield ratio >= least, f"{net}, {row.name}: at least {least:g} times as fast as {rival}: {ratio:.2f}"
        for name, least in SPEEDUPS.items():
            row = _find_row(rows, name)
            ratio = 1 / row.ratio("bfloat16")
            yield ratio >= least, f"{net}, {row.name}: bfloat16 at least {least:g} times as fast: {ratio:.2f}"


def _find_row(rows: Mapping[str, Timed], name: str) -> Timed:
    return next(row for row in rows.values() if row.name == name or row.name.startswith((f"{name},", f"{name} of")))


def page(nets: Nets, *, load: float, processes: int) -> str:
    """Return the result as Markdown."""
    lines = ["# Steps, attacks and maps on a CPU", "", f"{_machine()}; load average {load:.1f} before.", ""]
    lines += [f"- **{'PASS' if met else 'MISSED'}** {goal}" for met, goal in goals(nets)]
    for net, rows in nets.items():
        rate = f"{machine_rate(rows) / 1e9:.0f} GFLOP/s in each process"
        lines += [
            "",
            f"## {net}",
            "",
            f"{processes} processes at a time, 1 thread each; matrix products at {rate}.",
            "",
        ]
        lines += ["| step | floor, ms | ours, ms of processor time | rate | wall, ms | rivals, ms |"]
        lines += ["|---|---:|---:|---:|---:|---|"]
        lines += [_table_row(row, machine_rate(rows)) for row in rows.values() if not row.name.startswith("product")]
    return "\n".join([*lines, "", EXPLANATION])


def _table_row(row: Timed, rate: float) -> str:
    floor, rivals = row.operations / rate, [name for name in row.seconds if name != "ours"]
    comparisons = [f"{name} {_format_ms(row, name)}, ×{row.ratio(name):.2f}" for name in rivals]
    if "foolbox" in rivals and "torchattacks" not in rivals:
        comparisons.append("torchattacks not installed")
    return (
        f"| {row.name} | {1000 * floor:.1f} | {_format_ms(row, 'ours')} | {floor / row.median():.0%} "
        f"| {1000 * row.median(clock=WALL):.1f} | {'; '.join(comparisons)} |"
    )


def _format_ms(row: Timed, name: str) -> str:
    seconds = [pair[CPU] for pair in row.seconds[name]]
    return f"{1000 * row.median(name):.1f} [{1000 * min(seconds):.1f}, {1000 * max(seconds):.1f}]"


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    return f"{date.today()}; {cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


EXPLANATION = """\
Times are medians [fastest, slowest] over all rounds. Rivals take turns, and the first round does not count. Arithmetic
is float32 except where bfloat16 is named. Floor: the least number of operations (F per forward, f1 in its first layer)
at the machine's rate of matrix products, the best of 512², 1024² and 2048² in the same process. Standard training
needs 3F − f1, a penalty on g 6F − f1, the exact Jacobian (3K + 3)F − f1, an attack of n steps 2nF, N maps 2NF. A rate
may exceed 100%, because convolutions can multiply faster than matrix products. ×: a rival's time as a multiple of
ours.

Goals use processor time with one process per core and one thread each, as the workers of a study run. Other work on
the machine hardly changes it. Wall time is listed next to it.

Rivals run in the same process on PyTorch's own Sequential of the same layers, also with ReLU after pooling, and on
glibc's default memory, which returns large freed blocks to the system. Trainings here keep those blocks; rivals marked
"memory kept" do, too. torchattacks draws its own start. Maps are made for as many images at a time as in a study.
"""
