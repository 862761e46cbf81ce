"""How a process's memory is handed out: what a training frees after one step, the next step needs again."""

import ctypes
import sys

#: glibc's names of two of its options, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed() -> None:
    """From now on this process keeps freed memory, up to 2 GiB of it, for its next use.

    glibc gives blocks of 32 MB and more back to the system, which then has to clear their pages again: that took a
    quarter of a step with an exact Jacobian. Where the C library is another one, nothing changes.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
