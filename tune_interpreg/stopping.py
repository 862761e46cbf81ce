"""How a run is asked to stop: Ctrl-C by a person, SIGTERM by a scheduler that takes the machine back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """What the run was asked; ``signal`` is SIGTERM where a scheduler asked, else SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        self.signal = signal.SIGINT

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` where the run was asked to stop: an earlier one may have been lost.

        What a signal's handler raises goes no further than a destructor that happens to be running.
        """
        if self.asked:
            raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """The exit code by which a shell knows a process that a signal ended: 130 or 143."""
        return 128 + self.signal


@contextmanager
def heard() -> Iterator[Stop]:
    """While the block runs, Ctrl-C and SIGTERM are remembered, and SIGTERM does what Ctrl-C does."""
    stop = Stop()

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        raise KeyboardInterrupt

    def terminate(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.SIGTERM
        signal.raise_signal(signal.SIGINT)

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: terminate}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
