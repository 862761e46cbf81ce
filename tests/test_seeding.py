"""Streams are pinned by their seed and purpose, and independent of the global generator."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tune_interpreg import seeding

PARTS = st.one_of(st.text(max_size=8), st.integers(-5, 5))


def test_number_is_pinned() -> None:
    """The number is the top 63 bits of the digest of the JSON list, so a stored seed keeps its meaning."""
    digest = hashlib.sha256(b'[3, "weights"]').hexdigest()
    assert seeding.number(3, "weights") == int(digest[:16], 16) // 2


@given(st.integers(), st.lists(PARTS, max_size=4), st.integers(), st.lists(PARTS, max_size=4))
def test_number_tells_apart(seed: int, purpose: list[str | int], seed2: int, purpose2: list[str | int]) -> None:
    """Numbers are 63 bit and agree exactly when the seed and every part agree, in value and in type."""
    one, two = seeding.number(seed, *purpose), seeding.number(seed2, *purpose2)
    assert 0 <= one < 2**63
    assert (one == two) == ([seed, *purpose] == [seed2, *purpose2])


@pytest.mark.parametrize("other", [(0, "order"), (1, "weights")])
def test_generators_are_independent(other: tuple[int, str]) -> None:
    """The same seed and purpose repeat the stream; another seed or purpose gives another."""
    draw = torch.rand(8, generator=seeding.generator(0, "weights"))
    assert torch.equal(draw, torch.rand(8, generator=seeding.generator(0, "weights")))
    assert not torch.equal(draw, torch.rand(8, generator=seeding.generator(*other)))


def test_global_generator_is_undisturbed() -> None:
    """Making and using a generator draws nothing from the global one."""
    before = torch.get_rng_state()
    torch.rand(8, generator=seeding.generator(0, "weights"))
    assert torch.equal(before, torch.get_rng_state())
