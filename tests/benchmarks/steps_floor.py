"""What the step benchmark rests on: operations, the machine's rate of matrix products, and timing in alternation.

Operations are floating-point ones, two for each product that is summed, in convolutions and fully connected layers.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tune_interpreg.training import memory

#: The sides of the square matrices whose product's rate is the machine's: the best of them counts.
SIDES = (512, 1024, 2048)

#: Who runs in a process that keeps the memory it frees, as trainings here do; the others' gives large blocks back.
KEEPS = ("ours", "bfloat16", "memory kept")

#: glibc's name of the size from which it gives a block back at once; unasked it rises to 32 MB, and the trim to 64.
M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Row:
    """One thing that is timed: what it needs at least, in operations, and who does it, ours first."""

    name: str
    operations: float
    calls: Mapping[str, Callable[[], object]]


@dataclass
class Timed:
    """The seconds of each round of a row by who took them: (of the process's processor time, of the clock)."""

    name: str
    operations: float
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def operations(net: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """F and f1: the operations of one image's forward, and of its first layer alone."""
    counted: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        counted.append(2 * layer.weight[0].numel() * output[0].numel())

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        net(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return sum(counted), counted[0]


def products() -> list[Row]:
    """The matrix products whose rate, that of the best, every share in the report is of."""
    rows = []
    for side in SIDES:
        a, b, out = torch.rand(side, side), torch.rand(side, side), torch.empty(side, side)
        rows.append(Row(f"product of {side}", 2 * side**3, {"ours": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}))
    return rows


def timed(rows: Iterable[Row], rounds: int) -> list[Timed]:
    """Each row's rivals by turns, whose order is another one each round, after a round that does not count."""
    found = []
    for row in rows:
        names, one = list(row.calls), Timed(row.name, row.operations, {name: [] for name in row.calls})
        for turn in range(rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds = _seconds(row.calls[name], keeps=name.startswith(KEEPS))
                if turn:
                    one.seconds[name].append(seconds)
        found.append(one)
    return found


def _seconds(call: Callable[[], object], *, keeps: bool) -> tuple[float, float]:
    if keeps:
        memory.keep_freed()
        call()  # the turn before may have given back what was kept
    else:
        _give_back()
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def _give_back() -> None:
    """Hand memory out as glibc comes to do in a process that frees large blocks, before anyone tells it otherwise."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in ((memory.M_MMAP_MAX, 2**16), (M_MMAP_THRESHOLD, 2**25), (memory.M_TRIM_THRESHOLD, 2**26)):
            libc.mallopt(option, value)


def pooled(processes: Iterable[Iterable[Timed]]) -> dict[str, Timed]:
    """The rows of several processes that timed the same at the same time, each with all of its rounds."""
    rows: dict[str, Timed] = {}
    for row in (row for process in processes for row in process):
        one = rows.setdefault(row.name, Timed(row.name, row.operations))
        for name, seconds in row.seconds.items():
            one.seconds.setdefault(name, []).extend(tuple(pair) for pair in seconds)
    return rows


def median(row: Timed, name: str, clock: int) -> float:
    """clock: 0 for processor time, 1 for the clock's."""
    return statistics.median(pair[clock] for pair in row.seconds[name])


def spread(row: Timed, name: str, clock: int) -> tuple[float, float]:
    """The quickest and the slowest round."""
    seconds = [pair[clock] for pair in row.seconds[name]]
    return min(seconds), max(seconds)


def rate(rows: Mapping[str, Timed], clock: int) -> float:
    """The machine's own rate of matrix products, operations a second."""
    return max(row.operations / median(row, "ours", clock) for row in (rows[f"product of {side}"] for side in SIDES))
