"""The basis of the step benchmark: operations, the machine's rate of matrix products, and alternating timing.

Operations are floating-point operations, two per multiply-add, of convolutions and fully connected layers.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tune_interpreg.training.device import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory

#: The sides of the square matrices. The machine's rate is the best rate of their products.
SIDES = (512, 1024, 2048)

#: Calls of these names keep freed memory, as trainings here do. The others run on glibc's default, which returns it.
KEEPS_MEMORY = ("ours", "bfloat16")

#: glibc's option for the block size that is returned at once. Its default rises to 32 MB, that of the trim to 64 MB.
M_MMAP_THRESHOLD = -3

CPU, WALL = 0, 1  # the two clocks


@dataclass(frozen=True)
class Row:
    """A task to time: the least number of operations that it needs, and the rivals that do it, ours first."""

    name: str
    operations: float
    calls: Mapping[str, Callable[[], object]]


@dataclass
class Timed:
    """The seconds of a row's rounds by rival: (processor time, wall time)."""

    name: str
    operations: float
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def median(self, rival: str = "ours", clock: int = CPU) -> float:
        return statistics.median(pair[clock] for pair in self.seconds[rival])

    def ratio(self, rival: str) -> float:
        """Return the processor time of a rival as a multiple of ours."""
        return self.median(rival) / self.median()


def count_operations(net: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return F and f1: the operations of one image's forward, and of its first layer."""

    def count(layer: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(torch.zeros(1, *shape))
        return int(counter.get_total_flops())

    return count(net), count(next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d)))


def product_rows() -> list[Row]:
    """Return the matrix products that measure the machine's rate."""
    rows = []
    for side in SIDES:
        a, b, out = torch.rand(side, side), torch.rand(side, side), torch.empty(side, side)
        rows.append(Row(f"product of {side}", 2 * side**3, {"ours": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}))
    return rows


def machine_rate(rows: Mapping[str, Timed]) -> float:
    """Return the best rate of the matrix products, in operations per second of processor time."""
    return max(row.operations / row.median() for row in (rows[f"product of {side}"] for side in SIDES))


def time_rows(rows: Iterable[Row], rounds: int) -> list[Timed]:
    """Time each row's rivals in turn, in an order that rotates per round. The first round does not count."""
    results = []
    for row in rows:
        names, timed = list(row.calls), Timed(row.name, row.operations, {name: [] for name in row.calls})
        for turn in range(rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds = _time_call(row.calls[name], keeps_memory=name in KEEPS_MEMORY)
                if turn:
                    timed.seconds[name].append(seconds)
        results.append(timed)
    return results


def _time_call(call: Callable[[], object], *, keeps_memory: bool) -> tuple[float, float]:
    if keeps_memory:
        keep_freed_memory()
        call()  # the previous turn may have returned the memory
    else:
        _use_default_memory()
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def _use_default_memory() -> None:
    """Set glibc's options to the values that its defaults reach in a process that frees large blocks."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 2**16), (M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**26)):
            libc.mallopt(option, value)


def pool_processes(processes: Iterable[Iterable[Timed]]) -> dict[str, Timed]:
    """Merge the rows of processes that timed the same tasks at the same time."""
    rows: dict[str, Timed] = {}
    for process in processes:
        for row in process:
            merged = rows.setdefault(row.name, Timed(row.name, row.operations))
            for name, seconds in row.seconds.items():
                merged.seconds.setdefault(name, []).extend(tuple(pair) for pair in seconds)
    return rows
