"""A store of somebody else: what cannot be read is refused with its path, and never counted as absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.closed_form import drain, study

from tune_interpreg.store.store import Store

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store, whole = Store(tmp_path_factory.mktemp("rights") / "store"), study("adversarial")
    store.save_study(whole)
    drain(whole, store)
    return store


def call_without_rights(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has no more rights than any user: root's are dropped, and the store's owner is another."""
    words = [sys.executable, "-m", "tune_interpreg", *arguments]
    if os.geteuid() == 0:
        words = ["setpriv", "--bounding-set", "-all", *words]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "part"),
    [("status", "ledger"), ("report", "ledger/adversarial"), ("status", "study.yaml"), ("tensorboard", "study.yaml")],
)
def test_a_part_that_cannot_be_read_is_named(store: Store, command: str, part: str) -> None:
    path, owner = store.path / part, 65534 if os.geteuid() == 0 else -1
    mode = path.stat().st_mode
    os.chown(path, owner, -1)
    path.chmod(0)
    try:
        ran = call_without_rights(command, str(store.path))
    finally:
        path.chmod(mode)
        os.chown(path, 0 if owner != -1 else -1, -1)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    (message,) = ran.stderr.splitlines()
    assert message.startswith(f"error: {path}: permission denied: ")


def test_a_store_that_cannot_be_written_is_reported_elsewhere(store: Store, tmp_path: Path) -> None:
    owner = 65534 if os.geteuid() == 0 else -1
    os.chown(store.path, owner, -1)
    store.path.chmod(0o555)
    try:
        here = call_without_rights("report", str(store.path))
        there = call_without_rights("report", str(store.path), "--output", str(tmp_path / "there"))
    finally:
        store.path.chmod(0o755)
        os.chown(store.path, 0 if owner != -1 else -1, -1)
    assert here.returncode == 2
    assert "Table 1" in here.stdout, "it is printed all the same"
    assert here.stderr.startswith(f"error: {store.report_dir}: cannot be written (Permission denied); ")
    assert (there.returncode, there.stderr) == (0, "")
    assert (tmp_path / "there" / "index.html").exists()
