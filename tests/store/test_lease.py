"""One machine per mirror: a living holder is noticed, a dead one delays, and of several only one succeeds."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tune_interpreg.store import lease
from tune_interpreg.store.bucket import Bucket
from tune_interpreg.store.files import StoreError

pytest.importorskip("obstore", reason="needs the extra mirror")
pytestmark = pytest.mark.thorough

#: Seconds, as in the other process.
BEAT, EXPIRY = 0.3, 2.5

HOLD = f"""
import sys, time
from tune_interpreg.store import lease
lease.BEAT, lease.EXPIRY = {BEAT}, {EXPIRY}
with lease.hold_lease(sys.argv[1], "/store", [], lambda name, earlier: print(name), print) as held:
    print("taken", flush=True)
    for _ in sys.stdin:
        try:
            held.require()
            print("mine", flush=True)
        except lease.LeaseLost as error:
            print("lost:", error, flush=True)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": BEAT, "EXPIRY": EXPIRY, "_LOOK": 0.1}.items():
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}"


class Holder:
    """Another process that holds the lease."""

    def __init__(self, url: str):
        command = [sys.executable, "-c", HOLD, url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self._read()
        assert self._read() == "taken"

    def ask(self) -> str:
        """Return whether it holds the lease: ``mine``, or ``lost`` with the reason."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def other(url: str) -> Iterator[Holder]:
    holder = Holder(url)
    yield holder
    holder.process.kill()
    holder.process.communicate()


@contextmanager
def held(url: str, mine: tuple[str, ...] = (), store: str = "/elsewhere") -> Iterator[lease.Lease]:
    with lease.hold_lease(url, store, mine, lambda name, earlier: None, lambda line: None) as taken:
        yield taken


def test_a_living_holder_is_noticed_before_its_lease_expires(url: str, other: Holder) -> None:
    started = time.monotonic()
    holder = rf"process {other.process.pid} on \S+ since 20\S+ with the store /store"
    with pytest.raises(StoreError, match=rf"^--mirror {url}: is in use by {holder}; "), held(url):
        pass
    assert time.monotonic() - started < EXPIRY
    assert other.ask() == "mine"


def test_a_mirror_that_was_left_is_free_at_once(url: str) -> None:
    for _ in range(3):
        started = time.monotonic()
        with held(url) as taken:
            taken.require()
        assert time.monotonic() - started < EXPIRY / 2
    assert [item.path for item in Bucket(url).list()] == ["lease/00000003.json"]


def test_a_dead_holder_is_waited_for(url: str, other: Holder) -> None:
    other.process.kill()
    started = time.monotonic()
    with held(url):
        assert time.monotonic() - started > EXPIRY - 2 * BEAT


def test_a_store_takes_its_own_lease_from_its_dead_driver_at_once(url: str, other: Holder) -> None:
    """Not so a copy of the folder elsewhere, which remembers the same lease."""
    other.process.kill()
    started = time.monotonic()
    with held(url, mine=(other.name,), store="/store"):
        assert time.monotonic() - started < EXPIRY / 2


def test_a_copy_of_the_folder_does_not_take_the_lease_of_the_living(url: str, other: Holder) -> None:
    with pytest.raises(StoreError, match="is in use"), held(url, mine=(other.name,), store="/copied"):
        pass


def test_a_holder_that_slept_too_long_loses_the_lease_and_knows(url: str, other: Holder) -> None:
    os.kill(other.process.pid, signal.SIGSTOP)
    with held(url) as taken:
        os.kill(other.process.pid, signal.SIGCONT)
        assert other.ask().startswith(f"lost: process {os.getpid()} on ")
        taken.require()


def test_of_many_that_start_at_once_only_one_succeeds(url: str) -> None:
    start, inside, most, refused = threading.Barrier(8), threading.Semaphore(0), list[int](), list[str]()

    def try_to_hold() -> None:
        start.wait()
        try:
            with held(url):
                inside.release()
                most.append(inside._value)
                time.sleep(2 * EXPIRY)
        except StoreError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=try_to_hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(refused) == 7
