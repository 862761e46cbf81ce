"""Streams depend on their seed and purpose only, and leave the global generator alone."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tune_interpreg import seeding

PARTS = st.one_of(st.text(max_size=8), st.integers(-5, 5))


def test_number_is_pinned() -> None:
    """It is the first 63 bits of the digest of the JSON list. Stored seeds depend on it."""
    digest = hashlib.sha256(b'[3, "weights"]').hexdigest()
    assert seeding.number(3, "weights") == int(digest[:16], 16) // 2


@given(st.integers(), st.lists(PARTS, max_size=4), st.integers(), st.lists(PARTS, max_size=4))
def test_numbers_are_equal_only_for_equal_parts(
    seed: int, purpose: list[str | int], seed2: int, purpose2: list[str | int]
) -> None:
    """Parts are compared by value and type. Numbers have 63 bits."""
    number, other = seeding.number(seed, *purpose), seeding.number(seed2, *purpose2)
    assert 0 <= number < 2**63
    assert (number == other) == ([seed, *purpose] == [seed2, *purpose2])


@pytest.mark.parametrize("other", [(0, "order"), (1, "weights")])
def test_generators_are_independent(other: tuple[int, str]) -> None:
    """The same seed and purpose repeat the stream; another seed or purpose gives another. The global one is unused."""
    before = torch.get_rng_state()
    draw = torch.rand(8, generator=seeding.generator(0, "weights"))
    assert torch.equal(draw, torch.rand(8, generator=seeding.generator(0, "weights")))
    assert not torch.equal(draw, torch.rand(8, generator=seeding.generator(*other)))
    assert torch.equal(before, torch.get_rng_state())
