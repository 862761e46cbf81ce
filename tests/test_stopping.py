"""A run that is asked to stop, in earnest: by Ctrl-C, by a scheduler, twice; it says how to go on, and goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STUDY = """
data: {name: digits, train_limit: 800}
training: {epochs: 25, batch_size: 16}
attack: {eps: 0.5, steps: 5}
evaluation: {steps: 2}
seeds: [0, 1]
arms:
  adversarial: {method: adversarial}
"""
SECONDS = 10  # that a run may take to stop


def started(folder: Path, where: str) -> subprocess.Popen[str]:
    (folder / "study.yaml").write_text(STUDY)
    words = ["run", "study.yaml", "--store", "store", "--cluster", where]
    command = [sys.executable, "-m", "tune_interpreg", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def checkpoints(folder: Path) -> set[Path]:
    return set((folder / "store").glob("checkpoints/*/epoch.safetensors"))


def wait_for_an_epoch(folder: Path) -> None:
    until = time.monotonic() + 120
    while not checkpoints(folder):
        assert time.monotonic() < until, "no epoch was finished"
        time.sleep(0.05)


def stopped(process: subprocess.Popen[str], *signals: signal.Signals) -> tuple[int, str, str]:
    """Exit code and what was printed, after signals a third of a second apart."""
    begun = time.monotonic()
    for number, sent in enumerate(signals):
        time.sleep(0.3 * (number > 0))
        process.send_signal(sent)
    printed, complained = process.communicate(timeout=60)
    assert time.monotonic() - begun < SECONDS
    return process.returncode, printed, complained


@pytest.mark.parametrize("where", ["local", "in-process"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path, where: str, sent: int, code: int) -> None:
    process = started(tmp_path, where)
    wait_for_an_epoch(tmp_path)
    ended, printed, complained = stopped(process, signal.Signals(sent))
    assert ended == code, complained
    assert "interrupted: run the same command again to go on" in printed
    assert "Traceback" not in complained
    assert checkpoints(tmp_path)
    assert not list((tmp_path / "store").rglob("*.part"))


def test_a_second_ctrl_c_leaves_at_once_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """The next run takes up each checkpoint: no training begins anew, and all are there in the end."""
    process = started(tmp_path, "local")
    wait_for_an_epoch(tmp_path)
    ended, _, complained = stopped(process, signal.SIGINT, signal.SIGINT)
    assert ended == 130, complained
    assert "Traceback" not in complained
    events = {path.parent: path for path in (tmp_path / "store").glob("tensorboard/*/*/events.*")}
    assert events
    printed, complained = started(tmp_path, "in-process").communicate(timeout=200)
    assert "2 of 2 repeats done" in printed, complained
    records = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("ledger/*/*.json")]
    assert [record["epochs"] for record in records] == [25, 25]
    assert all(len(record["curves"][str(record["seeds"][0])]) == 25 for record in records)
