"""The step benchmark's page: goals, then for each net and way a table of times beside floors and rivals."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from steps_floor import Timed, median, rate, spread

#: The least share of the machine's own rate of matrix products, by the name with which a row begins.
SHARES = {"standard": 0.75, "interpretation": 0.75, "PGD": 0.75, "SmoothGrad": 0.75, "jacobian": 0.6}

#: How many times as fast as a rival, by the row's beginning and the rival.
RATIOS = {
    ("jacobian", "repeated batch"): 2.5,
    ("jacobian", "batched double backpropagation"): 1.5,
    ("PGD", "foolbox"): 1.3,
    ("PGD", "torchattacks"): 1.3,
    ("SmoothGrad", "captum"): 1.0,
    ("an epoch", "DataLoader"): 1.15,
}

#: How many times as fast bfloat16 is to be, by the row's beginning.
SHORTER = {"PGD": 1.6, "SmoothGrad": 1.6}

CPU, WALL = 0, 1
PACKAGES = ("torch", "torchvision", "captum", "foolbox", "torchattacks")
Results = Mapping[str, Mapping[str, Timed]]


def verdicts(nets: Results) -> Iterator[tuple[bool, str]]:
    """Each goal, whether it is met, and by what; a rival that is not installed is no goal."""
    for net, rows in nets.items():
        own = rate(rows, CPU)
        for begins, least in SHARES.items():
            row = _row(rows, begins)
            share = row.operations / median(row, "ours", CPU) / own
            yield share >= least, f"{net}, {row.name}: at least {least:.0%} of the machine's rate: {share:.0%}"
        for (begins, rival), least in RATIOS.items():
            row = _row(rows, begins)
            if rival in row.seconds:
                times = median(row, rival, CPU) / median(row, "ours", CPU)
                yield times >= least, f"{net}, {row.name}: at least {least:g} times as fast as {rival}: {times:.2f}"
        for begins, least in SHORTER.items():
            row = _row(rows, begins)
            times = median(row, "ours", CPU) / median(row, "bfloat16", CPU)
            yield times >= least, f"{net}, {row.name}: bfloat16 at least {least:g} times as fast: {times:.2f}"


def _row(rows: Mapping[str, Timed], begins: str) -> Timed:
    return next(row for name, row in rows.items() if name == begins or name.startswith((f"{begins},", f"{begins} of")))


def page(results: Mapping[str, Results], *, load: float, threads: Mapping[str, tuple[int, int]]) -> str:
    """Markdown; the first way is judged, by processor time."""
    judged = next(iter(results))
    lines = ["# Steps, attacks and maps on a CPU", "", f"{_machine()}; load average {load:.1f} before.", ""]
    lines += [f"- **{'PASS' if met else 'MISSED'}** {goal}" for met, goal in verdicts(results[judged])]
    for way, nets in results.items():
        processes, each = threads[way]
        clock = CPU if each == 1 else WALL
        for net, rows in nets.items():
            said = f"{processes} at a time, {each} thread{'s' * (each > 1)} each"
            own = f"{rate(rows, clock) / 1e9:.0f} GFLOP/s in each process"
            lines += ["", f"## {net}, {way}", "", f"{said}; matrix products at {own}.", "", *_table(rows, clock)]
            lines += _ideas(rows)
    return "\n".join([*lines, "", EXPLAINED])


def _table(rows: Mapping[str, Timed], clock: int) -> Iterator[str]:
    yield f"| step | floor, ms | ours, ms of {('processor', 'wall')[clock]} time | rate | wall, ms | rivals, ms |"
    yield "|---|---:|---:|---:|---:|---|"
    own = rate(rows, clock)
    for row in rows.values():
        if row.name.startswith(("product", "idea")):
            continue
        floor, ours = row.operations / own, median(row, "ours", clock)
        wall = 1000 * median(row, "ours", WALL)
        yield (
            f"| {row.name} | {1000 * floor:.1f} | {_ms(row, 'ours', clock)} | {floor / ours:.0%} | {wall:.1f} | "
            f"{'; '.join(_rivals(row, clock))} |"
        )


def _rivals(row: Timed, clock: int) -> Iterator[str]:
    others = [name for name in row.seconds if name != "ours"]
    for name in others:
        times = median(row, name, clock) / median(row, "ours", clock)
        yield f"{name} {_ms(row, name, clock)}, ×{times:.2f}"
    if "foolbox" in others and "torchattacks" not in others:
        yield "torchattacks not installed (`make bench` installs it apart)"


def _ideas(rows: Mapping[str, Timed]) -> Iterator[str]:
    tried = [row for row in rows.values() if row.name.startswith("idea")]
    if tried:
        yield from ("", "| idea | as the engine has it, ms | otherwise, ms | × |", "|---|---:|---:|---:|")
    for row in tried:
        (other,) = (name for name in row.seconds if name != "ours")
        times = median(row, other, CPU) / median(row, "ours", CPU)
        name = row.name.removeprefix("idea: ")
        yield f"| {name} | {_ms(row, 'ours', CPU)} | {_ms(row, other, CPU)} | {times:.2f} |"


def _ms(row: Timed, name: str, clock: int) -> str:
    low, high = spread(row, name, clock)
    return f"{1000 * median(row, name, clock):.1f} [{1000 * low:.1f}, {1000 * high:.1f}]"


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{date.today()}; {cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {_versions()}"


def _versions() -> str:
    told = []
    for package in PACKAGES:
        try:
            told.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            told.append(f"{package} not installed")
    return ", ".join(told)


EXPLAINED = """\
Median [quickest, slowest] of all rounds, rivals by turns, after a round that does not count; float32 but where it says
bfloat16. Floor: the fewest operations (F of a forward, f1 of its first layer) over the machine's own rate of matrix
products, the best of 512², 1024² and 2048² in the same process: standard 3F − f1, a penalty on g 6F − f1, exact
Jacobian (3K + 3)F − f1, an attack of n steps 2nF, N maps 2NF. A rate may pass 100%: convolutions multiply faster than
products of matrices do. ×: how many times our time a rival takes.

Goals are judged with one process a core and one thread each, as a study's workers run, on processor time, which other
work on the machine changes little; wall time is beside it. With several threads processor time counts their waiting for
each other too, so there it is wall time, and ours alone.

Rivals run in the same process on PyTorch's own Sequential of the same layers, ReLU after pooling too, and on memory as
glibc hands it out by itself, where that gives large freed blocks back; trainings here keep them. Where it says memory
kept, a rival has that as well. torchattacks draws its own start. The maps' images are as many as a study makes maps of
at a time. Start-up of torch.compile, tens of seconds, is not counted.
"""
