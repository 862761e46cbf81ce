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
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from helpers.clusters import session_processes
from helpers.kills import kill, ray_processes

pytestmark = pytest.mark.ray

EPOCHS = 8
STUDY = f"""
data: {{name: digits, train_limit: 400, validation: 60, test_limit: 60}}
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

#: The state of a listening socket in /proc/net/tcp, and the loopback addresses there.
LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def start(folder: Path, where: str, study: str = STUDY, **variables: str) -> Popen[str]:
    """Start the study in a process group of its own."""
    (folder / "study.yaml").write_text(study)
    words = [sys.executable, "-m", "tune_interpreg", "run", "study.yaml", "--store", "store", "--cluster", where]
    environment = os.environ | variables
    return Popen(words, cwd=folder, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True, env=environment)


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "store").glob("checkpoints/*/epoch.safetensors"))


def stop(process: Popen[str], *signals: signal.Signals, group: bool = False) -> None:
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
    """Until then, a local Ray is closed to other machines."""
    process = start(tmp_path, where)
    wait(lambda: checkpoints(tmp_path))
    if where == "local":
        check_that_no_other_machine_reaches(session_processes(process.pid))
    stop(process, sent)
    assert checkpoints(tmp_path)
    assert not list((tmp_path / "store").rglob("*.part"))
    assert f"stopped by {sent.name}" in (tmp_path / "store" / "run.log").read_text()


def check_that_no_other_machine_reaches(pids: set[int]) -> None:
    """Check that every server listens on loopback, without a dashboard, and sends no usage statistics."""
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path("/proc/net", kind).read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]": line[1].split(":")[0] for line in lines if line[3] == LISTENING}
    files, commands = set(), {}
    for pid in pids:
        with suppress(OSError):
            files |= {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
            commands[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    addresses = [address for socket, address in sockets.items() if socket in files]
    assert len(addresses) >= 4
    assert set(addresses) <= LOOPBACK
    servers = {pid for pid, command in commands.items() if b"gcs_server" in command or b"raylet/raylet" in command}
    assert len(servers) == 2
    assert all(b"--disable-frontend" in command for command in commands.values() if b"dashboard.py" in command)
    for pid in servers:
        assert b"RAY_USAGE_STATS_ENABLED=0" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


SHUTTING_DOWN = """
import os, signal, time
from contextlib import contextmanager
from tune_interpreg.cli import main
from tune_interpreg.cluster import drain

@contextmanager
def connected(*of):
    yield
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

drain._connected, drain._run_on_ray = connected, lambda *of: None
main()
"""


def test_a_signal_while_ray_shuts_down_ends_the_run_as_stopped(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    words = [sys.executable, "-c", SHUTTING_DOWN, "run", "study.yaml", "--store", "store"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 128 + signal.SIGTERM, ran.stderr
    assert RUN_AGAIN in ran.stdout + ran.stderr
    assert "stopped by SIGTERM" in (tmp_path / "store" / "run.log").read_text()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_the_next_run_continues(tmp_path: Path) -> None:
    process = start(tmp_path, "local")
    wait(lambda: checkpoints(tmp_path))
    stop(process, signal.SIGINT, signal.SIGINT)
    again = start(tmp_path, "in-process")
    output, errors = again.communicate(timeout=200)
    assert "2 of 2 repeats done" in output, errors
    records = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("ledger/*/*.json")]
    trained = [record for record in records if record["kind"] == "train"]
    assert [(record["epochs"], len(record["curve"])) for record in trained] == [(EPOCHS, EPOCHS)] * 2


@pytest.mark.slow
def test_a_run_does_not_wait_for_an_epoch_of_a_minute_and_leaves_no_process(tmp_path: Path) -> None:
    process = start(tmp_path, "local", STUDY.replace("steps: 5", "steps: 5000"))
    wait(lambda: list((tmp_path / "store").glob("tensorboard/*/*")))
    stop(process, signal.SIGINT, group=True)
    wait(lambda: not ray_processes(process.pid), SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["torch", "ray"])
def test_a_run_stops_during_start_up(tmp_path: Path, stage: str, sent: signal.Signals) -> None:
    """While torch is imported, and while Ray starts."""
    process = start(tmp_path, "local")
    if stage == "torch":
        wait(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    else:
        wait(lambda: ray_processes(process.pid))
    stop(process, sent, group=True)


@pytest.mark.slow
def test_a_worker_that_dies_as_it_starts_does_not_block_the_run(tmp_path: Path) -> None:
    """Ray's driver would wait for it forever. Ray starts another worker after a time that is a minute by default."""
    process = start(tmp_path, "local", RAY_worker_register_timeout_seconds="10")
    wait(lambda: "ray::IDLE" in ray_processes(process.pid).values())
    assert kill(next(pid for pid, command in ray_processes(process.pid).items() if command == "ray::IDLE"))
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "2 of 2 repeats done" in output
