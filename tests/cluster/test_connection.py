"""Addresses at which no Ray answers are told within seconds; a local Ray is out of other machines' reach."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from ray._private import node

from tune_interpreg.cluster import ray_internals
from tune_interpreg.cluster.connection import PATIENCE, ClusterError, join

STUDY = """\
data: {name: digits, train_limit: 64, validation: 60, test_limit: 60}
model: digits_cnn
training: {epochs: 500, batch_size: 32}
seeds: [0]
checks: null
arms:
  standard: {method: standard}
"""

#: The state of a listening socket in /proc/net/tcp; the addresses there on which it hears this machine alone.
LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test tells what matters."""


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server."""
    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def refused(where: str) -> str:
    """The message of an address that is refused before Ray's own patience of minutes begins."""
    began = time.monotonic()
    with pytest.raises(ClusterError) as told:
        join(where, {})
    assert time.monotonic() - began < PATIENCE + 10
    said = str(told.value)
    assert said.startswith(f"--cluster {where}: ")
    assert said.endswith(
        "start a cluster with `ray start --head`, give its address as HOST:PORT, or use --cluster local"
    )
    return said


def test_an_address_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    assert f"{free} does not answer ([Errno 111] Connection refused)" in refused(free)


def test_a_host_that_does_not_exist() -> None:
    assert "no-such-host.invalid:6379 does not answer (" in refused("no-such-host.invalid:6379")


def test_another_kind_of_server(web: str) -> None:
    assert f"the server at {web} is not Ray" in refused(web)


def test_a_server_that_says_nothing(silent: str) -> None:
    assert f"the server at {silent} is not Ray" in refused(silent)


def test_auto_takes_the_address_of_the_environment(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", web)
    assert f"the server at {web} is not Ray" in refused("auto")


# ------------------------------------------------------------------------------- local
@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[int]]:
    """The processes of a study that runs on a local Ray."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "long.yaml").write_text(STUDY)
    with (folder / "log").open("w") as log:
        run = [sys.executable, "-m", "tune_interpreg", "run", "long.yaml", "--store", "store"]
        driver = subprocess.Popen(run, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("store/checkpoints/*/epoch.*")):
            assert driver.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield session(driver.pid)
    finally:
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=30) == 130


def session(leader: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, ProcessLookupError):
            if os.getsid(int(entry.name)) == leader:
                found.add(int(entry.name))
    return found


def listening(pids: set[int]) -> dict[str, str]:
    """The local address of each listening socket of the processes, by its inode."""
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path("/proc/net", kind).read_text().splitlines()[1:]]
    sockets = {line[9]: line[1] for line in lines if line[3] == LISTENING}
    opened = set()
    for pid in pids:
        with suppress(OSError):
            opened |= {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    return {inode: address for inode, address in sockets.items() if f"socket:[{inode}]" in opened}


def test_every_server_of_a_local_ray_listens_on_loopback_alone(local: set[int]) -> None:
    found = listening(local)
    assert len(found) >= 4
    assert {address.split(":")[0] for address in found.values()} <= LOOPBACK


def test_a_local_ray_has_no_dashboard_and_tells_nobody(local: set[int]) -> None:
    """Its parts, of which workers inherit the environment, are told to send no usage statistics."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in local}
    parts = {pid for pid, command in commands.items() if b"gcs_server" in command or b"raylet/raylet" in command}
    assert len(parts) == 2
    assert all(b"--disable-frontend" in command for command in commands.values() if b"dashboard.py" in command)
    for pid in parts:
        assert b"RAY_USAGE_STATS_ENABLED=0" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


# ------------------------------------------------------------------- the start of Ray
def test_a_signal_is_heard_while_ray_waits_for_its_heads_port(tmp_path: Path) -> None:
    """Ray itself waits in foreign code that holds Python's lock; in turns it comes to the same end, in its time."""
    place, began = (str(tmp_path), "0" * 56, "gcs_server"), time.monotonic()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with ray_internals.wait_in_short_turns(), pytest.raises(KeyboardInterrupt):
            node.wait_for_persisted_port(*place, timeout_ms=20_000)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 5
    with ray_internals.wait_in_short_turns(), pytest.raises(RuntimeError, match="Timed out"):
        node.wait_for_persisted_port(*place, timeout_ms=500)
