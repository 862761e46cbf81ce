"""An address without Ray is refused within seconds; a local Ray cannot be reached from other machines."""

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

from tune_interpreg.cluster.connection import PATIENCE, REMEDIES, ClusterError, join

pytestmark = pytest.mark.ray

STUDY = """\
data: {name: digits, train_limit: 64, validation: 60, test_limit: 60}
model: digits_cnn
training: {epochs: 500, batch_size: 32}
seeds: [0]
checks: null
arms:
  standard: {method: standard}
"""

#: The state of a listening socket in /proc/net/tcp, and the loopback addresses there.
LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server."""
    with HTTPServer(("127.0.0.1", 0), SilentHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def refusal(where: str) -> str:
    """Return the message of an address that is refused. Ray itself would try for minutes."""
    start = time.monotonic()
    with pytest.raises(ClusterError) as refused:
        join(where, {})
    assert time.monotonic() - start < PATIENCE + 10
    message = str(refused.value)
    assert message.startswith(f"--cluster {where}: ")
    assert message.endswith(REMEDIES[""])
    return message


def test_an_address_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    assert f"{free} does not answer ([Errno 111] Connection refused)" in refusal(free)


def test_a_host_that_does_not_exist() -> None:
    assert "no-such-host.invalid:6379 does not answer (" in refusal("no-such-host.invalid:6379")


def test_another_kind_of_server(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"the server at {web} is not Ray" in refusal(web)
    monkeypatch.setenv("RAY_ADDRESS", web)
    assert f"the server at {web} is not Ray" in refusal("auto")


def test_a_server_that_sends_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert f"the server at {address} is not Ray" in refusal(address)


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
        yield processes_of_session(driver.pid)
    finally:
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=30) == 130


def processes_of_session(leader: int) -> set[int]:
    pids = set()
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, ProcessLookupError):
            if os.getsid(int(entry.name)) == leader:
                pids.add(int(entry.name))
    return pids


def listening_addresses(pids: set[int]) -> list[str]:
    """Return the local address of each listening socket of the processes."""
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path("/proc/net", kind).read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]": line[1].split(":")[0] for line in lines if line[3] == LISTENING}
    files = set()
    for pid in pids:
        with suppress(OSError):
            files |= {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    return [address for socket, address in sockets.items() if socket in files]


def test_a_local_ray_is_closed_to_other_machines(local: set[int]) -> None:
    """Every server listens on loopback only. There is no dashboard, and no usage statistics are sent."""
    addresses = listening_addresses(local)
    assert len(addresses) >= 4
    assert set(addresses) <= LOOPBACK
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in local}
    servers = {pid for pid, command in commands.items() if b"gcs_server" in command or b"raylet/raylet" in command}
    assert len(servers) == 2
    assert all(b"--disable-frontend" in command for command in commands.values() if b"dashboard.py" in command)
    for pid in servers:
        assert b"RAY_USAGE_STATS_ENABLED=0" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
