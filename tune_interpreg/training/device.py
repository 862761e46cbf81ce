"""What a GPU is told and asked: how exactly it multiplies, and how much of its memory a training took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

#: By a study's name of a precision, PyTorch's: ``ieee`` keeps the 23 bits of float32's mantissa, ``tf32`` 10 of them.
PRECISIONS = {"float32": "ieee", "tf32": "tf32"}

_CUDNN: Any = torch.backends.cudnn  # its types lack what is set here
_PRODUCTS: Sequence[Any] = (torch.backends.cuda.matmul, _CUDNN.conv, _CUDNN.rnn)


def exact() -> None:
    """From now on this process's GPUs multiply in float32, and give the same bits each time.

    PyTorch's own default rounds what convolutions multiply to TF32. On a CPU nothing changes.
    """
    _set([PRECISIONS["float32"]] * len(_PRODUCTS))


@contextmanager
def multiplying(precision: str) -> Iterator[None]:
    """Within it GPUs multiply in this precision, float32 or tf32, with the same bits each time; then as before."""
    before = [one.fp32_precision for one in _PRODUCTS], _CUDNN.deterministic, _CUDNN.benchmark
    _set([PRECISIONS[precision]] * len(_PRODUCTS))
    try:
        yield
    finally:
        _set(*before)


def _set(precisions: Sequence[str], deterministic: bool = True, benchmark: bool = False) -> None:
    for one, precision in zip(_PRODUCTS, precisions, strict=True):
        one.fp32_precision = precision
    _CUDNN.deterministic, _CUDNN.benchmark = deterministic, benchmark


def forget_peak(device: str) -> None:
    """Let ``peak_bytes`` begin anew: what earlier trainings of this process held on the device counts no more."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int | None:
    """The most memory that this process held on the device since ``forget_peak``; None on a CPU.

    Held, not in use: a captured graph keeps what its steps need, also while none runs.
    """
    return torch.cuda.max_memory_reserved(device) if device.startswith("cuda") else None
