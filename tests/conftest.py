"""Fixtures that all rooms share. This file also puts ``tests/`` on the import path, for ``helpers``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.contract import Make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests with the longest time limits first, so that parallel workers end together."""
    limits = {item: marker.args[0] for item in items if (marker := item.get_closest_marker("timeout"))}
    items.sort(key=lambda item: -limits.get(item, 0))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make Trainables by the method's name; see ``helpers.contract.making``."""
    from helpers.contract import making  # imported late, because it imports torch and Ray

    yield from making(tmp_path, monkeypatch)
