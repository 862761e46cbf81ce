"""How a run is asked to stop: Ctrl-C by a person, SIGTERM by a scheduler that takes the machine back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

RUN_AGAIN = "interrupted: run the same command again to go on"

#: Seconds after which a stop that was asked once is asked again, and after which the process ends whatever it does.
PATIENCE, LIMIT = 4.0, 6.0

#: Seconds that child processes have to end.
FAREWELL = 1.5

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"


class Stop:
    """What the run was asked; ``signal`` is SIGTERM where a scheduler asked first, else SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        self.signal = signal.SIGINT
        self._polled = self._rung = False

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` where the run was asked to stop: an earlier one may have been lost.

        What a signal's handler raises goes no further than a destructor that happens to be running.
        """
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def polled(self) -> Iterator[None]:
        """While the block runs, who looks at ``asked`` stops in order; only a second signal raises."""
        self._polled = True
        try:
            self.check()
            yield
        finally:
            self._polled = False

    @property
    def code(self) -> int:
        """The exit code by which a shell knows a process that a signal ended: 130 or 143."""
        return 128 + self.signal

    def ask(self, number: int) -> None:
        """Remember a signal; the first is the one that counts."""
        if not self.asked:
            self.asked, self.signal = True, signal.Signals(number)

    def ring(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        first, self._rung = not self._rung, True
        self.ask(number)
        if not (first and self._polled):
            raise KeyboardInterrupt


_heard: Stop | None = None  # handlers are the whole process's


@contextmanager
def listen_for_stops() -> Iterator[Stop]:
    """While the block runs, Ctrl-C and SIGTERM raise ``KeyboardInterrupt`` and are remembered.

    The process ends ``LIMIT`` seconds, and ``FAREWELL``, after the first at the latest, even where a library hangs.
    Within another such block it is the same ``Stop``, and the handlers are set anew: Ray has set its own in between.
    """
    global _heard
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # it ends a process that SIGTERM meets in ray.init
    if _heard:
        _listen(_heard)
        yield _heard
        return
    _heard = Stop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with _bounded(_heard):
            _listen(_heard)
            yield _heard
    finally:
        _heard = None
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(code: int, message: str = "") -> NoReturn:
    """Tell ``message`` and end the process, whatever it is doing: what it writes is written whole or not at all.

    Its children are asked to end first: a raylet that is killed leaves its agents behind for a minute. The interpreter
    is not taken down, which takes seconds once torch and Ray are loaded.
    """
    cursor, line = SHOW_CURSOR if os.isatty(2) else "", f"{message}\n" if message else ""
    with suppress(OSError):  # not by sys.stderr, which a thread that hangs may hold
        os.write(2, (cursor + line).encode())
    _end_children()
    os._exit(code)


def _end_children() -> None:
    """The youngest first, as long as time is left: a raylet needs the older ones to say good-bye to."""
    until = time.monotonic() + FAREWELL
    children = [int(child) for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]
    for child in reversed(children):
        with suppress(OSError):  # it has ended already
            os.kill(child, signal.SIGTERM)
            while time.monotonic() < until and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.02)


def _listen(stop: Stop) -> None:
    for number in SIGNALS:
        signal.signal(number, stop.ring)


@contextmanager
def _bounded(stop: Stop) -> Iterator[None]:
    """Limit the time from the first signal to the end of the block.

    A thread hears of signals by the wakeup pipe: Python runs no handler while the main thread is in foreign code, and
    while Ray starts it is Ray's that it runs.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    over = threading.Event()
    insisting = threading.Thread(target=_insist, args=(stop, reader, over), daemon=True)
    insisting.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.close(writer)
        insisting.join()
        os.close(reader)


def _insist(stop: Stop, reader: int, over: threading.Event) -> None:
    """Wait for the first signal; then ask once more, and at last end the process."""
    while (number := os.read(reader, 1)) and number[0] not in SIGNALS:
        pass
    if not number:
        return
    stop.ask(number[0])
    if over.wait(PATIENCE):
        return
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)  # interrupts a system call too
    if not over.wait(LIMIT - PATIENCE):
        leave(stop.code, RUN_AGAIN)
