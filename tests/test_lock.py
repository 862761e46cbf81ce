"""One driver a store: a second one is refused and told of the first; a dead one holds nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_interpreg import lock, study_file
from tune_interpreg.store import Store, StoreError

HOLD = """
import sys, time
from tune_interpreg import lock
from tune_interpreg.store import Store
with lock.held(Store(sys.argv[1])):
    lock.sign(Store(sys.argv[1]))
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the store."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_driver_is_told_who_holds_the_store(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    whose = f"process {other.pid} on {socket.gethostname()} since 20"
    said = rf"in use by {re.escape(whose)}.*wait for that run, stop it, or name another"
    with pytest.raises(StoreError, match=said), lock.held(Store(tmp_path)):
        raise AssertionError("the store was taken")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_driver_holds_nothing(tmp_path: Path, other: subprocess.Popen[str], sent: signal.Signals) -> None:
    other.send_signal(sent)
    other.wait()
    with lock.held(Store(tmp_path)):
        lock.sign(Store(tmp_path))
    assert json.loads((tmp_path / "driver.json").read_text())["pid"] == os.getpid()


def test_the_store_is_free_again_afterwards_also_when_the_run_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock.held(Store(tmp_path)):
        raise ZeroDivisionError
    with lock.held(Store(tmp_path)):
        pass


def test_a_driver_that_died_at_once_leaves_a_folder_that_the_next_one_takes(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    with lock.held(store):
        pass
    assert list(store.path.iterdir()) == []
    store.check(study_file.parse("arms: {a: {method: standard}}", where="t.yaml"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written .*--store"), lock.held(Store(tmp_path / "file" / "below")):
        pass
