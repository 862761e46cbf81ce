"""Independent random streams: one number and one generator per (seed, purpose), by a hash.

Code of other packages draws from the global generators of torch, NumPy and ``random``. ``seeded`` gives a block of such
code its own stream.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def number(seed: int, *purpose: str | int) -> int:
    """Return a number in [0, 2^63): the first 63 bits of SHA-256 of (seed, purpose...).

    The parts are written as a JSON list before hashing, so ("a", "b") and ("ab",) differ, as do 1 and "1".
    """
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device`, seeded with number(seed, purpose)."""
    return torch.Generator(device=device).manual_seed(number(seed, purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed the global generators of torch (CPU and GPUs), NumPy and ``random`` in this block, then restore them."""
    before, gpus = read_global_state(), range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(number(seed, *purpose))
        np.random.seed(number(seed, *purpose) % 2**32)
        random.seed(number(seed, *purpose))
        try:
            yield
        finally:
            restore_global_state(before)


def read_global_state() -> tuple[Any, ...]:
    """Return the states of the global generators on the CPU: torch's, NumPy's and that of ``random``, comparable."""
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    return torch.get_rng_state().numpy().tobytes(), (name, keys.tobytes(), *rest), random.getstate()


def restore_global_state(state: tuple[Any, ...]) -> None:
    """Set the global generators to what ``read_global_state`` returned."""
    torch_state, (name, keys, *rest), python_state = state
    torch.set_rng_state(torch.frombuffer(bytearray(torch_state), dtype=torch.uint8))
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *rest))
    random.setstate(python_state)
