"""A run that is asked to stop does so within seconds, says how to continue, and continues.

Ctrl-C in a terminal signals the whole foreground process group, Ray's processes included. ``os.killpg`` does the same.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.kills import kill, ray_processes

pytestmark = pytest.mark.ray

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
RUN_AGAIN = "run the same command again to continue"
SECONDS = 10  # that a run may take to stop


def start(folder: Path, where: str, study: str = STUDY, **variables: str) -> subprocess.Popen[str]:
    """Start the study in a process group of its own."""
    (folder / "study.yaml").write_text(study)
    words = ["run", "study.yaml", "--store", "store", "--cluster", where]
    return subprocess.Popen(
        [sys.executable, "-m", "tune_interpreg", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | variables,
    )


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "store").glob("checkpoints/*/epoch.safetensors"))


def stop(process: subprocess.Popen[str], *signals: signal.Signals, group: bool = False) -> None:
    """Send signals, 0.3 s apart, and check that the run stops in time, with its message and exit code."""
    begin = time.monotonic()
    for number, sent in enumerate(signals):
        time.sleep(0.3 * (number > 0))
        (os.killpg if group else os.kill)(process.pid, sent)
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < SECONDS
    assert process.returncode == 128 + signals[0], errors
    assert RUN_AGAIN in output + errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("where", "sent"),
    [("in-process", signal.SIGINT), ("in-process", signal.SIGTERM), ("local", signal.SIGTERM)],
)
def test_a_run_stops_after_the_checkpoint_that_it_writes(tmp_path: Path, where: str, sent: signal.Signals) -> None:
    process = start(tmp_path, where)
    wait(lambda: checkpoints(tmp_path))
    stop(process, sent)
    assert checkpoints(tmp_path)
    assert not list((tmp_path / "store").rglob("*.part"))
    assert f"stopped by {sent.name}" in (tmp_path / "store" / "run.log").read_text()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_the_next_run_continues(tmp_path: Path) -> None:
    """The next run continues from each checkpoint."""
    process = start(tmp_path, "local")
    wait(lambda: checkpoints(tmp_path))
    stop(process, signal.SIGINT, signal.SIGINT)
    again = start(tmp_path, "in-process")
    output, errors = again.communicate(timeout=200)
    assert "2 of 2 repeats done" in output, errors
    records = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("ledger/*/*.json")]
    assert [record["epochs"] for record in records] == [EPOCHS, EPOCHS]
    assert all(len(record["curves"][str(record["seeds"][0])]) == EPOCHS for record in records)


@pytest.mark.slow
def test_a_run_does_not_wait_for_an_epoch_of_a_minute_and_leaves_no_process(tmp_path: Path) -> None:
    process = start(tmp_path, "local", STUDY.replace("steps: 5", "steps: 5000"))
    wait(lambda: list((tmp_path / "store").glob("tensorboard/*/*")))
    stop(process, signal.SIGINT, group=True)
    wait(lambda: not ray_processes(process.pid), SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "sent"),
    [("torch", signal.SIGINT), ("torch", signal.SIGTERM), ("ray", signal.SIGINT), ("ray", signal.SIGTERM)],
)
def test_a_run_stops_during_start_up(tmp_path: Path, stage: str, sent: signal.Signals) -> None:
    """While torch is imported, and while Ray starts."""
    process = start(tmp_path, "local")
    if stage == "torch":
        wait(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    else:
        wait(lambda: ray_processes(process.pid))
    stop(process, sent, group=True)


@pytest.mark.slow
def test_a_run_with_a_dead_raylet_ends(tmp_path: Path) -> None:
    """Left alone, Tune would wait for a node forever."""
    process = start(tmp_path, "local")
    wait(lambda: checkpoints(tmp_path))
    (raylet,) = [pid for pid, command in ray_processes(process.pid).items() if "/raylet/raylet " in command]
    assert kill(raylet)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2, errors
    assert errors.strip().splitlines()[-1].endswith(RUN_AGAIN)


@pytest.mark.slow
def test_a_worker_that_dies_as_it_starts_does_not_block_the_run(tmp_path: Path) -> None:
    """Ray's driver would wait for it forever. Ray starts another worker after a time that is a minute by default."""
    process = start(tmp_path, "local", RAY_worker_register_timeout_seconds="15")
    workers: list[int] = []
    while not workers:
        workers = [pid for pid, command in ray_processes(process.pid).items() if command == "ray::IDLE"]
        assert process.poll() is None
        time.sleep(0.01)
    assert kill(workers[0])
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "2 of 2 repeats done" in output
