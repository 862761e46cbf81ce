"""Speed up start-up: no garbage collection while libraries and records are loaded."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def pause_gc() -> Iterator[None]:
    """Pause garbage collection in this block, then freeze what was loaded. Rescanning it costs seconds."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        _release_at_exit()


@cache
def _release_at_exit() -> None:
    """Let triton's objects be freed at the interpreter's exit: triton prints a long list of those that are not.

    Without triton, nothing is freed: looking for garbage once more takes half a second.
    """
    atexit.register(lambda: gc.unfreeze() if "triton" in sys.modules else None)
