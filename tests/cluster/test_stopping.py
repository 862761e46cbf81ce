"""A run that is asked to stop, in earnest: by Ctrl-C, by a scheduler, twice; it says how to go on, and goes on.

A terminal's Ctrl-C goes to the whole foreground group, Ray's processes included: ``os.killpg`` is what it does.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import kills

EPOCHS = 12
STUDY = f"""
data: {{name: digits, train_limit: 800}}
training: {{epochs: {EPOCHS}, batch_size: 16}}
attack: {{eps: 0.5, steps: 5}}
evaluation: {{steps: 2}}
seeds: [0, 1]
checks: null
arms:
  adversarial: {{method: adversarial}}
"""
SECONDS = 10  # that a run may take to stop


def started(folder: Path, where: str, study: str = STUDY) -> subprocess.Popen[str]:
    """The command in a process group of its own."""
    (folder / "study.yaml").write_text(study)
    words = ["run", "study.yaml", "--store", "store", "--cluster", where]
    command = [sys.executable, "-m", "tune_interpreg", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def checkpoints(folder: Path) -> set[Path]:
    return set((folder / "store").glob("checkpoints/*/epoch.safetensors"))


def wait_for_an_epoch(folder: Path) -> None:
    until = time.monotonic() + 120
    while not checkpoints(folder):
        assert time.monotonic() < until, "no epoch was finished"
        time.sleep(0.05)


def stopped(process: subprocess.Popen[str], *signals: signal.Signals, group: bool = False) -> tuple[int, str, str]:
    """Exit code and what was printed, after signals a third of a second apart."""
    begun = time.monotonic()
    for number, sent in enumerate(signals):
        time.sleep(0.3 * (number > 0))
        (os.killpg if group else os.kill)(process.pid, sent)
    printed, complained = process.communicate(timeout=60)
    assert time.monotonic() - begun < SECONDS
    return process.returncode, printed, complained


@pytest.mark.parametrize(
    ("where", "sent", "code"),
    [
        ("in-process", signal.SIGINT, 130),
        ("in-process", signal.SIGTERM, 143),
        ("local", signal.SIGTERM, 143),
        pytest.param("local", signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path, where: str, sent: int, code: int) -> None:
    process = started(tmp_path, where)
    wait_for_an_epoch(tmp_path)
    ended, printed, complained = stopped(process, signal.Signals(sent))
    assert ended == code, complained
    assert "interrupted: run the same command again to continue" in printed + complained
    assert "Traceback" not in complained
    assert checkpoints(tmp_path)
    assert not list((tmp_path / "store").rglob("*.part"))


@pytest.mark.slow
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
    assert [record["epochs"] for record in records] == [EPOCHS, EPOCHS]
    assert all(len(record["curves"][str(record["seeds"][0])]) == EPOCHS for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_epoch_of_a_minute_is_not_waited_for_and_nothing_outlives_the_run(tmp_path: Path, sent: int) -> None:
    process = started(tmp_path, "local", STUDY.replace("steps: 5", "steps: 5000"))
    until = time.monotonic() + 120
    while not list((tmp_path / "store").glob("tensorboard/*/*")):
        assert time.monotonic() < until, "no epoch was begun"
        time.sleep(0.05)
    code, printed, complained = stopped(process, signal.Signals(sent), group=True)
    assert code == 128 + sent, complained
    assert "run the same command again to continue" in printed + complained
    assert "Traceback" not in complained
    until = time.monotonic() + SECONDS
    while left := kills.of_ray(process.pid):
        assert time.monotonic() < until, left
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begun", ["import of torch", "start of Ray"])
def test_a_run_that_has_hardly_begun_stops_too(tmp_path: Path, begun: str, sent: int) -> None:
    process = started(tmp_path, "local")
    until = time.monotonic() + 60
    while begun not in _stages(process.pid):
        assert time.monotonic() < until, "it was never seen"
        time.sleep(0.01)
    code, printed, complained = stopped(process, signal.Signals(sent), group=True)
    assert code == 128 + sent, complained
    assert "run the same command again to continue" in printed + complained
    assert "Traceback" not in complained


def _stages(driver: int) -> set[str]:
    """What a driver has come to, by the libraries it holds and the processes it has started."""
    torch = "libtorch" in Path(f"/proc/{driver}/maps").read_text()
    return {stage for stage, seen in [("import of torch", torch), ("start of Ray", bool(kills.of_ray(driver)))] if seen}


@pytest.mark.slow
def test_a_run_whose_raylet_dies_ends_and_says_how_to_go_on(tmp_path: Path) -> None:
    """Left alone, Tune would wait for a node for ever."""
    process = started(tmp_path, "local")
    wait_for_an_epoch(tmp_path)
    (raylet,) = [pid for pid, command in kills.of_ray(process.pid).items() if "/raylet/raylet " in command]
    os.kill(raylet, signal.SIGKILL)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 2, complained
    assert complained.strip().splitlines()[-1].endswith("run the same command again to continue")


@pytest.mark.slow
def test_a_worker_that_dies_as_it_starts_holds_up_no_run(tmp_path: Path) -> None:
    """Ray notices after a minute, and starts another; left to itself, its driver would wait for ever."""
    process = started(tmp_path, "local")
    while not (workers := [pid for pid, command in kills.of_ray(process.pid).items() if command == "ray::IDLE"]):
        assert process.poll() is None
        time.sleep(0.01)
    assert kills.kill(workers[0])
    printed, complained = process.communicate(timeout=200)
    assert process.returncode == 0, complained
    assert "2 of 2 repeats done" in printed
