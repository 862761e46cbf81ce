"""One driver a store: a second one is refused and told of the first; a dead one holds nothing."""

import fcntl
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
from optuna.storages.journal import JournalFileSymlinkLock

from trainables.base.job import Job
from tune_interpreg.cluster.worker import StudyTrainable, worker_config
from tune_interpreg.store import lock
from tune_interpreg.store.files import Refused, StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Training
from tune_interpreg.study.file.read import parse_study
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Recipe

HOLD = """
import sys, time
from tune_interpreg.store import lock
from tune_interpreg.store.store import Store
with lock.hold(Store(sys.argv[1])):
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
    with pytest.raises(StoreError, match=said), lock.hold(Store(tmp_path)):
        raise AssertionError("the store was taken")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_driver_holds_nothing(tmp_path: Path, other: subprocess.Popen[str], sent: signal.Signals) -> None:
    other.send_signal(sent)
    other.wait()
    with lock.hold(Store(tmp_path)):
        lock.sign(Store(tmp_path))
    assert json.loads((tmp_path / "driver.json").read_text())["pid"] == os.getpid()


def test_the_store_is_free_again_afterwards_also_when_the_run_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock.hold(Store(tmp_path)):
        raise ZeroDivisionError
    with lock.hold(Store(tmp_path)):
        pass


def test_a_driver_that_died_at_once_leaves_a_folder_that_the_next_one_takes(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    with lock.hold(store):
        pass
    assert list(store.path.iterdir()) == []
    store.check_setting(parse_study("arms: {a: {method: standard}}", where="t.yaml"))


def test_what_is_locked_is_a_file_for_folders_cannot_be_on_all_file_systems(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with lock.hold(store):
        lock.sign(store)
        with (tmp_path / lock.LOCK).open("r+") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
    assert lock.is_driver_alive(store) is False
    assert (tmp_path / lock.LOCK).exists()


def test_what_a_driver_left_that_died_while_it_wrote_optunas_journal_holds_up_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path)
    own = JournalFileSymlinkLock(str(store.journal))
    own.acquire()
    store.remove_leftovers()
    with pytest.raises(RuntimeError, match="did not possess"):
        own.release()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written .*--store"), lock.hold(Store(tmp_path / "file" / "below")):
        pass


def worker_of(store: Store) -> Store:
    """The store as a worker sees it that the driver of ``store`` started."""
    item = Item(arm="a", role="repeat", recipe=Recipe(method="standard"), seeds=(0,))
    made = Job.of_study(worker_config(item, store, "cpu")).store
    assert made is not None
    return made


def test_workers_of_a_driver_that_was_killed_write_nothing_once_another_has_signed(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    lock.sign(first)
    left, file = worker_of(first), tmp_path / "models" / "key" / "seed-0.safetensors"
    left.write_text(file, "of the first driver")
    lock.sign(second)
    for store in (left, first):
        with pytest.raises(Refused, match="another run has taken it over"):
            store.write_text(file, "too late")
    worker_of(second).write_text(file, "of the second")
    assert file.read_text() == "of the second"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_a_signature_that_cannot_be_read_stops_nobody(tmp_path: Path, content: bytes | None) -> None:
    store = Store(tmp_path)
    lock.sign(store)
    store.driver_file.unlink() if content is None else store.driver_file.write_bytes(content)
    worker_of(store).write_text(tmp_path / "file", "written")
    assert lock._holder(store) == "another process, which is about to start"


def test_a_worker_that_is_left_over_ends_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither burns a retry nor leaves a note; its item belongs to the other driver now."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    store = Store(tmp_path / "store")
    lock.sign(store)
    recipe = Recipe(
        method="standard", data=Data(train_limit=64), training=Training(epochs=2), evaluation_attack=Attack(steps=1)
    )
    left = StudyTrainable(worker_config(Item(arm="a", role="search", recipe=recipe, seeds=(0,)), store, "cpu"))
    assert left.step()["epoch"] == 1
    lock.sign(Store(store.path))
    result = left.step()
    assert result == {
        "refused": f"{store.path}: another run has taken it over; this one writes nothing more",
        "done": True,
    }
    assert store.records() == []
    assert not list(store.path.rglob("error.txt"))
