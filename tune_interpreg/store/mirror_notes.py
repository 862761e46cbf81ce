"""The notes of a store about its mirror: the file ``mirror.jsonl``."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tune_interpreg.store import files
from tune_interpreg.store.store import Store

#: Leases that a store remembers.
_LEASES = 8


class Stamp(NamedTuple):
    """The state of a local file."""

    mtime_ns: int
    size: int


class Notes:
    """The store's ``mirror.jsonl``: the mirror's URL, the leases of its runs, and which files are in the bucket.

    A line is appended for each copied file. Without this file, or with a mirror of another URL, everything is compared.
    """

    def __init__(self, path: Path, url: str):
        self._path, self._url, self._lock = path, url, threading.Lock()
        self.leases: list[str] = []  # of earlier runs
        self.is_behind = False
        self.copies: dict[str, tuple[str, Stamp]] = {}
        lines = _read_lines(path)
        header = next(lines, {})
        if header.get("url") == url:
            self.leases, self.is_behind = header["leases"], header["is_behind"]
            for line in lines:
                self.is_behind = line.get("is_behind", self.is_behind)
                with suppress(KeyError):
                    self.copies[line["path"]] = (line["tag"], Stamp(line["mtime_ns"], line["size"]))

    def add_lease(self, identity: str, earlier: str | None) -> None:
        """Note the lease of this run before it is taken. Only the last few can be the newest in the bucket.

        earlier: the lease before it. If it is another store's, this one is behind until it has been restored.
        """
        self.is_behind |= earlier is not None and earlier not in self.leases
        header = {"url": self._url, "leases": [*self.leases, identity][-_LEASES:], "is_behind": self.is_behind}
        copies = [_line_of_copy(path, tag, stamp) for path, (tag, stamp) in self.copies.items()]
        with files.replace_atomically(self._path) as temporary:
            temporary.write_text("".join([json.dumps(header) + "\n", *copies]), encoding="utf-8")

    def add_copy(self, path: str, tag: str, stamp: Stamp) -> None:
        """Note that the bucket has a file as it is now."""
        if self.copies.get(path) == (tag, stamp):
            return
        self.copies[path] = (tag, stamp)
        self._append(_line_of_copy(path, tag, stamp))

    def end_restoration(self) -> None:
        """Note that the store has everything that the bucket has."""
        if self.is_behind:
            self.is_behind = False
            self._append(json.dumps({"is_behind": False}) + "\n")

    def _append(self, line: str) -> None:
        with self._lock, self._path.open("ab", buffering=0) as file:
            file.write(line.encode())


def _line_of_copy(path: str, tag: str, stamp: Stamp) -> str:
    return json.dumps({"path": path, "tag": tag, **stamp._asdict()}) + "\n"


def read_url(store: Store) -> str | None:
    """Return the URL of the store's mirror; None without one."""
    url: str | None = next(_read_lines(store.mirror_file), {}).get("url")
    return url


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file of JSON objects, without an incomplete last one."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                yield content
