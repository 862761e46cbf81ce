"""Independent random streams: one number and one generator per (seed, purpose), by a hash."""

import hashlib
import json

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
