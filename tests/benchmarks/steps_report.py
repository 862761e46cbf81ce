"""The page of the step benchmark: goals, then per net a table of times next to floors and rivals."""

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from steps_floor import CPU, WALL, Timed, machine_rate

#: The least share of the machine's rate, by the beginning of a row's name.
SHARES = {"standard": 0.75, "interpretation": 0.75, "PGD": 0.75, "SmoothGrad": 0.75, "jacobian": 0.6}

#: The least ratio of two times, by row, faster and slower rival.
RATIOS = {
    ("jacobian", "ours", "repeated batch"): 2.5,
    ("jacobian", "ours", "batched double backpropagation"): 1.5,
    ("PGD", "ours", "foolbox"): 1.3,
    ("PGD", "ours", "torchattacks"): 1.3,
    ("PGD", "bfloat16", "ours"): 1.6,
    ("SmoothGrad", "ours", "captum"): 1.0,
    ("SmoothGrad", "bfloat16", "ours"): 1.6,
    ("an epoch", "ours", "DataLoader"): 1.15,
}

PACKAGES = ("torch", "torchvision", "captum", "foolbox", "torchattacks")
Nets = Mapping[str, Mapping[str, Timed]]


def goals(nets: Nets) -> Iterator[tuple[bool, str]]:
    """Yield whether each goal is met, and the goal with its number. Rivals that are not installed have no goal."""
    for net, rows in nets.items():
        for name, least in SHARES.items():
            row = _find_row(rows, name)
            share = row.operations / row.median() / machine_rate(rows)
            yield share >= least, f"{net}, {row.name}: at least {least:.0%} of the machine's rate: {share:.0%}"
        for (name, faster, slower), least in RATIOS.items():
            row = _find_row(rows, name)
            if slower in row.seconds:
                goal = f"{net}, {row.name}: {faster} at least {least:g} times as fast as {slower}"
                ratio = row.median(slower) / row.median(faster)
                yield ratio >= least, f"{goal}: {ratio:.2f}"


def _find_row(rows: Mapping[str, Timed], name: str) -> Timed:
    return next(row for row in rows.values() if row.name == name or row.name.startswith((f"{name},", f"{name} of")))


def page(nets: Nets, *, load: float, processes: int) -> str:
    """Return the result as Markdown."""
    machine = f"{describe_machine(*PACKAGES)}; load average {load:.1f} before."
    lines = ["# Steps, attacks and maps on a CPU", "", machine, ""]
    lines += [f"- **{'PASS' if met else 'MISSED'}** {goal}" for met, goal in goals(nets)]
    for net, rows in nets.items():
        rate = f"{machine_rate(rows) / 1e9:.0f} GFLOP/s in each process"
        setting = f"{processes} processes at a time, 1 thread each; matrix products at {rate}."
        lines += ["", f"## {net}", "", setting, ""]
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


def describe_machine(*packages: str) -> str:
    """Return the date, the processor, and the versions of Python and of these packages, if they are installed."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = [f"{package} {version(package)}" for package in packages if find_spec(package)]
    python = f"Python {platform.python_version()}"
    return f"{date.today()}; {cpu}, {os.cpu_count()} cores; {', '.join([python, *versions])}"


EXPLANATION = """\
Times are medians [fastest, slowest] over all rounds. Rivals take turns, and the first round does not count. Arithmetic
is float32 except where bfloat16 is named. Floor: the least number of operations (F per forward, f1 in its first layer)
at the machine's rate of matrix products, the best of 512², 1024² and 2048² in the same process. Standard training
needs 3F − f1, a penalty on g 6F − f1, the exact Jacobian (3K + 3)F − f1, an attack of n steps 2nF, N maps 2NF. A rate
may exceed 100%, because convolutions can multiply faster than matrix products. ×: a rival's time as a multiple of
ours.

Goals use processor time with one process per core and one thread each. Other work on the machine hardly changes it.

Rivals run in the same process on PyTorch's own Sequential of the same layers, also with ReLU after pooling, and on
glibc's default memory, which returns large freed blocks to the system; trainings here keep those blocks. torchattacks
draws its own start. Maps are made for as many images at a time as in a study.
"""
