"""Fixtures that all rooms share. This file also puts ``tests/`` on the import path, for ``helpers``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.contract import Make


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make Trainables by the method's name; see ``helpers.contract.making``."""
    from helpers.contract import making  # imported late, because it imports torch and Ray

    yield from making(tmp_path, monkeypatch)
