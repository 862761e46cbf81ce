"""Files that are whole or not there, and that show whether they are still what was written.

JSON is sealed: its key ``sha256`` is the checksum of the canonical dump of the rest. Those of other files stand in
the record of the item that made them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

CHECKSUM = "sha256"
_LAST_LINE = f"# {CHECKSUM}: "


class StoreError(ValueError):
    """A store that cannot be used; the message names the folder, what is wrong and what to do."""


class Refused(StoreError):
    """The store takes nothing more from this run, whatever it tries: the run ends, and what is begun stays begun."""


class Damaged(StoreError):
    """A file that is not what was written there; ``reason`` says in what way."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; `run` makes it anew"


# --------------------------------------------------------------------- writing
@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, whole and on disk, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}.part")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def preallocate(file: Path) -> None:
    """Give a file that is about to be mapped all of its blocks: where the disk is full, a write to a hole kills."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


# ----------------------------------------------------------------------- seals
def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with its checksum; as JSON has it, so that what is read back has the same."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**plain, CHECKSUM: _checksum(plain)}


def read_checked(path: Path) -> dict[str, Any]:
    """The content of a sealed file; raises ``Damaged`` where it is not what was sealed, or where there is none."""
    try:
        content = json.loads(_text(path))
        seal = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
        right = seal is not None and seal == _checksum(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"is damaged: it is no JSON ({error})") from None
    if not right:
        raise Damaged(path, "is damaged: it has " + ("another checksum than its own" if seal else "no checksum"))
    return dict(content)


def text_with_checksum(text: str) -> str:
    """``text`` with its checksum in a comment of its last line, as YAML has them."""
    return f"{text}{_LAST_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n"


def read_checked_text(path: Path) -> str:
    """The text of a file that ``text_with_checksum`` made; raises ``Damaged`` where it is another."""
    whole = _text(path)
    text, found, _ = whole.rpartition(_LAST_LINE)
    if not found or whole != text_with_checksum(text):
        reason = "another checksum than its own" if found else "no checksum"
        raise Damaged(path, f"is damaged: it has {reason}")
    return text


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise Damaged(path, "is missing") from None
    except UnicodeDecodeError:
        raise Damaged(path, "is damaged: it is no text") from None
    except OSError as error:
        if as_refused(error, path.parent):
            raise
        raise Damaged(path, f"is damaged: it cannot be read ({error.strerror})") from None


def _checksum(content: Any) -> str:
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


# ----------------------------------------------------------------- other files
def file_checksum(path: Path) -> str:
    """The checksum of a file; it is read again only where its time or size changed."""
    known = path.stat()
    return _sha256(path, known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=4096)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_checksum(path: Path, expected: str) -> None:
    """Raise ``Damaged`` where a file is missing, or has another checksum than ``expected``."""
    try:
        found = file_checksum(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Damaged(path, "is missing") from None
    if found != expected:
        raise Damaged(path, "is damaged: it has another checksum than when it was made")


# ----------------------------------------------------- what a disk refuses
#: No later try succeeds by itself. The first three are met by writing alone, so wherever they are met they count.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "make it writable",
    errno.EACCES: "give this user the right to read and write there",
    errno.EIO: "check the disk",
}


def as_refused(error: BaseException, folder: Path) -> Refused | None:
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
def raise_refused(folder: Path) -> Iterator[None]:
    """While the block works on the store in ``folder``: what its disk refuses is raised as ``Refused``."""
    try:
        yield
    except Exception as error:
        if refused := as_refused(error, folder):
            raise refused from None
        raise


def _remedy(number: int) -> str:
    return f"{_REMEDIES[number]}, then run the same command again"


def _number_in(text: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", text)
    number = int(found[1] or found[2]) if found else None
    return number if number in _WRITING else None
