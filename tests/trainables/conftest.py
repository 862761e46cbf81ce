"""The fixture of tests of training methods."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.contract import Make, making


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make Trainables by the method's name; see ``helpers.contract.making``."""
    yield from making(tmp_path, monkeypatch)
