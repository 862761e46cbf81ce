"""Stop a run on request: Ctrl-C by a person, SIGTERM by a scheduler that takes the machine back."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

RUN_AGAIN = "interrupted: run the same command again to continue"

#: Seconds after the first signal until it is repeated, until the process ends, and then for its children to end.
PATIENCE, LIMIT, GRACE = 4.0, 6.0, 1.5

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A request to stop. ``signal`` is the first signal that arrived: SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False
        self.signal = signal.SIGINT
        self._polling = self._signalled = False

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if requested. A handler's exception is lost if it is raised in a destructor."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def polling(self) -> Iterator[None]:
        """Leave the first signal in this block to code that reads ``requested``; only a second one raises."""
        self._polling = True
        try:
            self.check()
            yield
        finally:
            self._polling = False

    @property
    def code(self) -> int:
        """The exit code of a process that a signal ended: 130 or 143."""
        return 128 + self.signal

    def request(self, number: int) -> None:
        """Record a signal. Only the first counts."""
        if not self.requested:
            self.requested, self.signal = True, signal.Signals(number)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: record it, and raise ``KeyboardInterrupt`` unless the block polls."""
        is_first, self._signalled = not self._signalled, True
        self.request(number)
        if not (is_first and self._polling):
            raise KeyboardInterrupt


_active: Stop | None = None  # signal handlers belong to the whole process


@contextmanager
def listen_for_stops(*, limit: bool = True) -> Iterator[Stop]:
    """Raise ``KeyboardInterrupt`` in this block on Ctrl-C and SIGTERM, and record the signal.

    The process ends ``LIMIT`` + ``GRACE`` seconds after the first signal at the latest, even if a library hangs. A
    nested block yields the same ``Stop`` and installs the handlers again, because Ray replaces them as it starts.

    limit: False for a process that lives on, such as a notebook's.
    """
    global _active
    if _active:
        for number in SIGNALS:
            signal.signal(number, _active.handle)
        yield _active
        return
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # see cluster/ray_internals.py
    _active = Stop()
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with _time_limit(_active) if limit else nullcontext(), listen_for_stops() as stop:
            yield stop
    finally:
        _active = None
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_now(code: int, message: str = "") -> NoReturn:
    """Print ``message`` to standard error and end the process at once: files are written atomically.

    Child processes are asked to end first, because the agents of a killed raylet live on for a minute. The youngest
    goes first, because a raylet deregisters at the older ones. Shutting down the interpreter would take seconds.
    """
    show_cursor, line = "\x1b[?25h" if os.isatty(2) else "", f"{message}\n" if message else ""
    with suppress(OSError):  # not through sys.stderr, which a thread that hangs may have locked
        os.write(2, (show_cursor + line).encode())
    deadline = time.monotonic() + GRACE
    children = [int(child) for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]
    for child in reversed(children):
        with suppress(OSError):  # it has ended already
            os.kill(child, signal.SIGTERM)
            while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
    os._exit(code)


@contextmanager
def _time_limit(stop: Stop) -> Iterator[None]:
    """Limit the time from the first signal to the end of the block, even in foreign code, where no handler runs."""
    over, (reader, writer) = threading.Event(), os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=_enforce, args=(stop, threading.get_ident(), reader, over), daemon=True)
    thread.start()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        over.set()
        os.close(writer)
        thread.join()
        os.close(reader)


def _enforce(stop: Stop, main_thread: int, reader: int, over: threading.Event) -> None:
    """Wait for the first signal, repeat it after ``PATIENCE``, and end the process after ``LIMIT``."""
    number = os.read(reader, 1)
    while number and number[0] not in SIGNALS:
        number = os.read(reader, 1)
    if not number:  # the block has ended
        return
    stop.request(number[0])
    if over.wait(PATIENCE):
        return
    signal.pthread_kill(main_thread, signal.SIGINT)  # interrupts a system call too
    if not over.wait(LIMIT - PATIENCE):
        exit_now(stop.code, RUN_AGAIN)
