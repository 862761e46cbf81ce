"""Python's garbage collector, kept away from what is loaded once and stays: libraries, the records of a ledger."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_gc() -> Iterator[None]:
    """Collect nothing meanwhile, and set aside what is there then: looking through it again and again takes seconds."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
