"""A real S3 server on loopback, behind a connection that can be cut: moto's, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

BUCKET = "bucket"

#: Seconds for the server to start.
PATIENCE = 120


#: The folder in which `make test-slow` installs the server.
SITE = Path(sys.prefix) / "moto"


@contextmanager
def running() -> Iterator[int]:
    """Run a server with an empty bucket; yields its port. Skips the test if none is installed."""
    if not SITE.exists() and find_spec("moto") is None:
        pytest.skip("needs an S3 server, which `make test-slow` installs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    paths = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")]))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, **quiet)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _make_bucket(port):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.5)
        yield port
    finally:
        process.kill()
        process.wait()


def _make_bucket(port: int) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


def environment(port: int) -> dict[str, str]:
    """Return the variables that name a server on loopback."""
    credentials = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **credentials}


class Proxy:
    """Forwards connections to a server on loopback, until they are cut.

    sent: bytes that clients have sent so far.
    """

    def __init__(self, server: int):
        self._server, self._connections = server, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent, self.is_down, self._seconds = 0, False, 0.0
        self._left: int | None = None  # bytes until the cut
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """End all connections, and refuse new ones until ``restore``."""
        self.is_down = True
        for connection in self._connections:
            _end(connection)

    def cut_after(self, size: int) -> None:
        """Forward so many bytes of clients, then ``cut``."""
        self._left = size

    def slow_down(self, seconds: float) -> None:
        """Wait so long before each 64 KiB of a client."""
        self._seconds = seconds

    def restore(self) -> None:
        self.is_down, self._left, self._seconds = False, None, 0.0

    def close(self) -> None:
        self.cut()
        _end(self._listener)
        for thread in self._threads:
            thread.join()
        for connection in (self._listener, *self._connections):
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                if self.is_down:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._server))
                self._connections += [client, server]
                for source, target in ((client, server), (server, client)):
                    arguments = (source, target, source is client)
                    self._threads.append(threading.Thread(target=self._forward, args=arguments, daemon=True))
                    self._threads[-1].start()

    def _forward(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        with suppress(OSError):
            while content := source.recv(2**16):
                if is_client:
                    time.sleep(self._seconds)
                    self.sent += len(content)
                    if self._left is not None:
                        content, self._left = content[: self._left], self._left - len(content)
                        if self._left <= 0:
                            target.sendall(content)
                            self.cut()
                            break
                target.sendall(content)
        for connection in (source, target):
            _end(connection)


def _end(connection: socket.socket) -> None:
    """Let all threads that wait for a connection continue. It is closed later, because they still use it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
