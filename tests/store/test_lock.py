"""One driver per store: a second driver is refused, and a dead one locks nothing."""

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.jobs import training_job
from helpers.studies import parse_study
from optuna.storages.journal import JournalFileSymlinkLock

from tune_interpreg.store import lock
from tune_interpreg.store.files import Refused, StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data, Training
from tune_interpreg.study.recipe import Recipe

HOLD = """
import sys, time
from tune_interpreg.store import lock
from tune_interpreg.store.store import Store
with lock.hold(Store(sys.argv[1])):
    lock.sign(Store(sys.argv[1]))
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has locked the store."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_driver_is_refused_until_the_first_dies(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    holder = f"process {other.pid} on {socket.gethostname()} since 20"
    with pytest.raises(StoreError, match=rf"{tmp_path}: is in use by {re.escape(holder)}"), lock.hold(Store(tmp_path)):
        pass
    other.kill()
    other.wait()
    with lock.hold(Store(tmp_path)):
        lock.sign(Store(tmp_path))
    assert json.loads((tmp_path / "driver.json").read_text())["pid"] == os.getpid()


def test_a_driver_that_died_at_its_start_leaves_an_empty_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    for _ in range(2):  # the lock is released also after an error
        with pytest.raises(ZeroDivisionError), lock.hold(store):
            raise ZeroDivisionError
    assert list(store.path.iterdir()) == []
    store.check_setting(parse_study("arms: {a: {method: standard}}"))


def test_the_lock_is_on_a_file_and_not_on_the_folder(tmp_path: Path) -> None:
    """Network folders do not show other hosts a lock on a folder."""
    store = Store(tmp_path)
    with lock.hold(store):
        lock.sign(store)
        with store.lock_file.open("r+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
    assert lock.is_driver_alive(store) is False
    assert store.lock_file.exists()


def test_a_lock_on_optunas_journal_of_a_dead_driver_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    journal_lock = JournalFileSymlinkLock(str(store.journal))
    journal_lock.acquire()
    store.remove_leftovers()
    with pytest.raises(RuntimeError, match="did not possess"):
        journal_lock.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "below"
    with pytest.raises(StoreError, match=rf"{folder}: cannot be written .*--store"), lock.hold(Store(folder)):
        pass


def test_workers_of_a_killed_driver_write_nothing_after_another_signs(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    lock.sign(first)
    worker, file = Store(tmp_path, first.driver), tmp_path / "models" / "key" / "seed-0.safetensors"
    worker.write_text(file, "of the first driver")
    lock.sign(second)
    for store in (worker, first):
        with pytest.raises(Refused):
            store.write_text(file, "too late")
    Store(tmp_path, second.driver).write_text(file, "of the second")
    assert file.read_text() == "of the second"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_a_damaged_signature_stops_nobody(tmp_path: Path, content: bytes | None) -> None:
    store = Store(tmp_path)
    lock.sign(store)
    store.driver_file.unlink()
    if content is not None:
        store.driver_file.write_bytes(content)
    Store(tmp_path, store.driver).write_text(tmp_path / "file", "written")
    assert store.read_driver() == {}


@pytest.mark.ray
def test_a_worker_of_a_replaced_driver_ends_without_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses no retry and writes nothing; its item belongs to the other driver now."""
    from tune_interpreg.cluster.worker import StudyTrainable, worker_config

    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    store = Store(tmp_path / "store")
    lock.sign(store)
    recipe = Recipe(method="standard", data=Data(train_limit=64), training=Training(epochs=2))
    worker = StudyTrainable(worker_config(training_job(recipe), store, "cpu"))
    assert worker.step()["epoch"] == 1
    lock.sign(Store(store.path))
    result = worker.step()
    assert result["done"] is True
    assert result["refused"].startswith(f"{store.path}: ")
    assert store.records() == []
    assert not list(store.path.rglob("error.txt"))
