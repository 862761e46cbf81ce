"""One machine per mirror: a lease in its bucket, which the holder renews and which expires if the holder dies.

Leases are objects ``lease/00000001.json``, ``lease/00000002.json`` and so on. The last one counts. A lease is taken by
creating the next number, which succeeds for one machine only. The holder writes its lease again every ``BEAT`` seconds.
The age of a lease is the difference of two times of the server, so the machines' clocks do not matter.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from tune_interpreg.store.bucket import Bucket, Object, Unreachable
from tune_interpreg.store.files import StoreError

logger = logging.getLogger(__name__)

#: Seconds between two renewals, and without one until another machine may take the mirror.
BEAT, EXPIRY = 10.0, 60.0

#: Seconds between two looks at another machine's lease.
_LOOK = 2.0


class LeaseLost(Exception):
    """Another machine has taken the mirror."""


class Lease:
    """The lease of this process."""

    def __init__(self, bucket: Bucket, number: int, content: dict[str, Any]):
        self._bucket, self._number, self._content = bucket, number, content
        self._renewed = _now()
        self._lost: dict[str, Any] | None = None
        self._ended = threading.Event()

    def require(self) -> None:
        """Raise ``LeaseLost`` if another machine has the mirror now, ``Unreachable`` if that cannot be found out."""
        if self._lost is None and _now() - self._renewed > EXPIRY / 2:
            self.renew()
        if self._lost is not None:
            raise LeaseLost(f"{describe(self._lost)} has taken it over")

    def renew(self) -> None:
        """Write the lease again, and look for a later one. Raises ``Unreachable``."""
        started = _now()
        self._bucket.put(_path(self._number), _dump(self._content))
        later = _newest(self._bucket)
        if later and _number(later) > self._number:
            self._lost = _read(self._bucket, later)
        self._renewed = started

    def keep(self) -> None:
        """Renew the lease until it ends or is lost; the body of a thread."""
        while not self._ended.wait(BEAT) and self._lost is None:
            try:
                self.renew()
            except Unreachable as error:
                logger.debug("the lease of %s is not renewed: %s", self._bucket.url, error)

    def end(self) -> None:
        """Write that the mirror is free."""
        self._ended.set()
        if self._lost is None:
            with suppress(Unreachable):  # it expires
                self._bucket.put(_path(self._number), _dump(self._content | {"ended": True}))


@contextmanager
def hold_lease(
    url: str, store: str, mine: Collection[str], note: Callable[[str, str | None], object], say: Callable[[str], object]
) -> Iterator[Lease]:
    """Hold the lease of a mirror in this block; yields the ``Lease``.

    A lease that expires soon is waited for, because its holder may be dead: only a living one renews it.

    Args:
        store: path of the store, which this process has locked.
        mine: ids of leases of this store's earlier runs, which are dead.
        note: receives the id of the new lease, before it is taken, and that of the lease before it, if any.
        say: receives a line if this waits.

    Raises:
        StoreError: another machine holds it.
        Unreachable: the bucket does not answer.
    """
    bucket = Bucket(url, quick=True)
    newest = _newest(bucket)
    earlier = _read(bucket, newest) if newest else {}
    here = {"host": socket.gethostname(), "store": store}
    is_mine = earlier.get("id") in mine and here.items() <= earlier.items()
    if newest and not (is_mine or earlier.get("ended")):
        _wait_for_expiry(bucket, newest, earlier, say)
    identity = uuid.uuid4().hex
    process = {"id": identity, "pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    content: dict[str, Any] = process | here
    note(identity, earlier.get("id"))
    lease = Lease(bucket, _number(newest) + 1 if newest else 1, content)
    is_taken = bucket.create(_path(lease._number), _dump(content))
    last = _newest(bucket)  # a slow machine may have created a number that was deleted after its look
    if not is_taken or last is None or _number(last) != lease._number:
        raise _refuse(bucket, _read(bucket, last) if last else {})
    bucket.delete([item.path for item in _leases(bucket) if _number(item) < lease._number])
    thread = threading.Thread(target=lease.keep, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.end()


def describe(content: dict[str, Any]) -> str:
    """Return the holder of a lease in words."""
    if content.keys() >= {"pid", "host", "since"}:
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    return "another machine"


def _wait_for_expiry(bucket: Bucket, newest: Object, content: dict[str, Any], say: Callable[[str], object]) -> None:
    """Return once a lease has expired or ended. Raises ``StoreError`` as soon as its holder shows that it lives."""
    left = EXPIRY - (_server_time(bucket) - newest.modified).total_seconds()
    end = _now() + left
    if left > 0:
        say(f"{bucket.url}: {describe(content)} may still use it; waiting up to {left:.0f} s for a sign of that")
    while True:
        is_last_look = _now() >= end
        try:
            last = _newest(bucket)
        except Unreachable:
            if is_last_look:
                raise
        else:
            if last and (last.path, last.modified) != (newest.path, newest.modified):
                now = _read(bucket, last)
                if now.get("ended"):
                    return
                raise _refuse(bucket, now)
            if is_last_look:
                return
        time.sleep(max(0.0, min(_LOOK, end - _now())))


def _refuse(bucket: Bucket, content: dict[str, Any]) -> StoreError:
    remedy = "wait for that run, stop it, or name another folder with --mirror"
    holder = describe(content) + (f" with the store {content['store']}" if "store" in content else "")
    return StoreError(f"--mirror {bucket.url}: is in use by {holder}; {remedy}")


def _server_time(bucket: Bucket) -> datetime:
    """Return the present time by the server's clock."""
    path = f"lease/time-{uuid.uuid4().hex}"
    bucket.put(path, b"")
    try:
        return next(item.modified for item in bucket.list("lease/") if item.path == path)
    finally:
        bucket.delete([path])


def _leases(bucket: Bucket) -> list[Object]:
    return [item for item in bucket.list("lease/") if item.path.endswith(".json")]


def _newest(bucket: Bucket) -> Object | None:
    return max(_leases(bucket), key=_number, default=None)


def _number(item: Object) -> int:
    digits = item.path.rpartition("/")[2].removesuffix(".json")
    return int(digits) if digits.isdecimal() else 0


def _path(number: int) -> str:
    return f"lease/{number:08}.json"


def _dump(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _read(bucket: Bucket, item: Object) -> dict[str, Any]:
    """Return the content of a lease; empty if it cannot be read."""
    try:
        content = json.loads(bucket.read(item.path) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _now() -> float:
    """Return seconds of a clock that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
