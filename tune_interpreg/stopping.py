"""How a run is asked to stop: Ctrl-C by a person, SIGTERM by a scheduler that takes the machine back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """What the run was asked; ``signal`` is SIGTERM where a scheduler asked, else SIGINT."""

    def __init__(self) -> None:
        self.signal = signal.SIGINT

    @property
    def code(self) -> int:
        """The exit code by which a shell knows a process that a signal ended: 130 or 143."""
        return 128 + self.signal


@contextmanager
def heard() -> Iterator[Stop]:
    """While the block runs, SIGTERM does what Ctrl-C does, and is remembered."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.SIGTERM
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
