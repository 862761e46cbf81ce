"""What a disk refuses: errors that no retry mends, told with the folder, the reason and the remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: No later try succeeds by itself. The first three are met by writing alone, so wherever they are met they count.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "make it writable",
    errno.EACCES: "give this user the right to read and write there",
    errno.EIO: "check the disk",
}


class StoreError(ValueError):
    """A store that cannot be used; the message names the folder, what is wrong and what to do."""


class Refused(StoreError):
    """The store takes nothing more from this run, whatever it tries: the run ends, and what is begun stays begun."""


def refusal(error: BaseException, folder: Path) -> Refused | None:
    """What ends a run of the store in ``folder``, or None where the error is of another kind.

    Errors of other libraries (safetensors, Ray) are known by the system's number in their text.
    """
    if isinstance(error, Refused):
        return error
    number = error.errno if isinstance(error, OSError) else _number_in(str(error))
    place = Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else folder
    within = place.is_relative_to(folder)
    if number not in _REMEDIES or not (within or number in _WRITING):
        return None
    return Refused(f"{folder if within else place}: {os.strerror(number).lower()}: {_remedy(number)}")


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """While the block works on the store in ``folder``: what its disk refuses is raised as ``Refused``."""
    try:
        yield
    except Exception as error:
        if refused := refusal(error, folder):
            raise refused from None
        raise


def _remedy(number: int) -> str:
    return f"{_REMEDIES[number]}, then run the same command again"


def _number_in(text: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", text)
    number = int(found[1] or found[2]) if found else None
    return number if number in _WRITING else None
