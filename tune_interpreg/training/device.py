"""Settings and readings of the device: float32 precision, memory of the GPU, memory of the process."""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

#: A study's precision → PyTorch's. ``ieee`` keeps the 23 bits of float32's mantissa, ``tf32`` keeps 10 of them.
PRECISIONS = {"float32": "ieee", "tf32": "tf32"}

_CUDNN: Any = torch.backends.cudnn  # typed as Any because its stubs lack fp32_precision
_BACKENDS: Sequence[Any] = (torch.backends.cuda.matmul, _CUDNN.conv, _CUDNN.rnn)

#: Numbers of two options in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def use_exact_float32() -> None:
    """Make this process's GPUs multiply in full float32, not in PyTorch's default TF32, and deterministically."""
    _set_backends([PRECISIONS["float32"]] * len(_BACKENDS))


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Make GPUs multiply deterministically in ``precision`` (float32 or tf32) within this block."""
    before = [backend.fp32_precision for backend in _BACKENDS], _CUDNN.deterministic, _CUDNN.benchmark
    _set_backends([PRECISIONS[precision]] * len(_BACKENDS))
    try:
        yield
    finally:
        _set_backends(*before)


def _set_backends(precisions: Sequence[str], deterministic: bool = True, benchmark: bool = False) -> None:
    for backend, precision in zip(_BACKENDS, precisions, strict=True):
        backend.fp32_precision = precision
    _CUDNN.deterministic, _CUDNN.benchmark = deterministic, benchmark


def reset_peak_memory(device: str) -> None:
    """Restart the measurement of ``read_peak_memory``."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def read_peak_memory(device: str) -> int | None:
    """Return the most bytes that this process reserved on a GPU since ``reset_peak_memory``; None on a CPU.

    Reserved, not allocated: a captured graph keeps the memory of its steps even while none runs.
    """
    return torch.cuda.max_memory_reserved(device) if device.startswith("cuda") else None


def keep_freed_memory() -> None:
    """Make this process keep up to 2 GiB of freed memory for its next allocation. Needs glibc, else no effect.

    By default glibc returns blocks of 32 MB and more to the system, which must clear their pages before the next use.
    That took a quarter of each step with an exact Jacobian.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
