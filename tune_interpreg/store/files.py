"""Files that are complete or absent, with checksums that show later changes, and errors of the disk.

JSON files contain their checksum under the key ``sha256``: the SHA-256 of the canonical dump of all other keys. Text
files contain it in a comment on the last line. Checksums of all other files stand in the record of their item.
"""

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

#: Errors that no retry fixes → remedy. Only writing raises the errors in ``_WRITING``, so they count in any folder.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "make it writable",
    errno.EACCES: "give this user the right to read and write there",
    errno.EIO: "check the disk",
}


class StoreError(ValueError):
    """A store that cannot be used. The message names the folder, the reason and the remedy."""


class Refused(StoreError):
    """The store accepts no more writes of this run. The run ends; items in progress stay in progress."""


class Damaged(StoreError):
    """A file that is missing or differs from what was written."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; run again: the next start sets it aside and makes it again"


# --------------------------------------------------------------------- writing
@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to ``path``. It replaces ``path``, synced to disk, if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}.part")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def preallocate(path: Path) -> None:
    """Allocate all blocks of a file before it is mapped. On a full disk, writing into a hole kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


# ------------------------------------------------------------------- checksums
def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Return ``content`` as JSON reads it back, with its checksum."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**plain, CHECKSUM: _checksum(plain)}


def read_checked(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file. Raise ``Damaged`` if it is missing, or its checksum is missing or wrong."""
    try:
        content = json.loads(_read_text(path))
        checksum = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
        intact = checksum is not None and checksum == _checksum(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"is damaged: it is not JSON ({error})") from None
    if not intact:
        raise Damaged(path, "is damaged: its checksum is wrong or missing")
    return dict(content)


def text_with_checksum(text: str) -> str:
    """Return ``text`` with its checksum in a YAML comment on the last line."""
    return f"{text}{_LAST_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n"


def read_checked_text(path: Path) -> str:
    """Return the text that ``text_with_checksum`` got. Raise ``Damaged`` as ``read_checked`` does."""
    content = _read_text(path)
    text = content.rpartition(_LAST_LINE)[0]
    if content != text_with_checksum(text):
        raise Damaged(path, "is damaged: its checksum is wrong or missing")
    return text


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise Damaged(path, "is missing") from None
    except UnicodeDecodeError:
        raise Damaged(path, "is damaged: it is not text") from None
    except OSError as error:
        if as_refused(error, path.parent):
            raise
        raise Damaged(path, f"is damaged: it cannot be read ({error.strerror})") from None


def _checksum(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file. It is computed again only if the file's time or size changed."""
    status = path.stat()
    return _file_checksum(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _file_checksum(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_checksum(path: Path, expected: str) -> None:
    """Raise ``Damaged`` if a file is missing or does not have the checksum ``expected``."""
    try:
        checksum = file_checksum(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Damaged(path, "is missing") from None
    if checksum != expected:
        raise Damaged(path, "is damaged: it changed after it was written")


def is_utf8(path: str | Path) -> bool:
    """Return whether a path is UTF-8. JSON, Ray and TensorBoard cannot hold another one."""
    try:
        os.path.abspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------- errors of the disk
def as_refused(error: BaseException, folder: Path) -> Refused | None:
    """Return the ``Refused`` that ends a run of the store in ``folder``, or None for an error of another kind.

    Other libraries (safetensors, Ray) report the system's error number only in their message.
    """
    if isinstance(error, Refused):
        return error
    if isinstance(error, OSError):
        number = error.errno
    else:
        match = re.search(r"\(os error (\d+)\)\W*$|^\[Errno (\d+)\]", str(error))  # not in a path that it names
        number = next((code for code in _WRITING if match and str(code) in match.groups()), None)
    path = Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else folder
    is_inside = path.is_relative_to(folder)
    if number not in _REMEDIES or not (is_inside or number in _WRITING):
        return None
    remedy = f"{_REMEDIES[number]}, then run the same command again"
    place = folder if is_inside and number in _WRITING else path
    return Refused(f"{place}: {os.strerror(number).lower()}: {remedy}")


@contextmanager
def raise_refused(folder: Path) -> Iterator[None]:
    """In this block, raise disk errors of the store in ``folder`` as ``Refused``."""
    try:
        yield
    except Exception as error:
        if refused := as_refused(error, folder):
            raise refused from None
        raise
