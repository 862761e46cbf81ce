"""Servers of other programs on this machine, out of reach of others, until they are asked to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from types import FrameType
from typing import IO, Annotated, NoReturn

import typer

HOST = "127.0.0.1"

#: Seconds that a server has to answer first, and to end when it is asked to.
PATIENCE, FAREWELL = 60, 5

#: A terminal that is closed asks by SIGHUP.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PortOption = Annotated[
    int | None,
    typer.Option("--port", metavar="PORT", min=1, max=65535, help="Port to listen on; a free one unless given."),
]


class ServerError(RuntimeError):
    """A server that cannot be started, or that ended by itself."""


def serve(arguments: Sequence[str], port: int | None, pages: Mapping[str, str]) -> None:
    """Run ``python ARGUMENTS --host 127.0.0.1 --port PORT`` until Ctrl-C, SIGTERM, or the end of the terminal.

    pages: title → page; their addresses are printed once the server answers. Raises ``ServerError``.
    """
    port = _open_port(port)
    command = [sys.executable, "-P", *arguments, "--host", HOST, "--port", str(port)]
    with tempfile.TemporaryFile() as said, _until_asked(), _started(command, said) as server:
        _await(server, port, said)
        for title, page in pages.items():
            typer.echo(f"{title:18}http://{HOST}:{port}/{page}")
        typer.echo("Ctrl-C ends it")
        server.wait()
        raise _ended(server, said)


def _open_port(port: int | None) -> int:
    """``port`` where nobody listens at it, or a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a server before do not count
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            why = f"cannot be listened to on {HOST} ({os.strerror(error.errno or 0).lower()})"
            raise ServerError(f"--port {port}: {why}; name another, or drop it for a free one") from None
        return int(probe.getsockname()[1])


@contextmanager
def _until_asked() -> Iterator[None]:
    """The block ends in order at the first of ``SIGNALS``; those that the caller's shell ignores are ignored."""

    def ask(number: int, frame: FrameType | None) -> NoReturn:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _started(command: Sequence[str], said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process; what it says goes to ``said``, and Ctrl-C to this process alone."""
    with subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True) as server:
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(FAREWELL)
            except subprocess.TimeoutExpired:
                server.kill()


def _await(server: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while not _answers(port):
        if server.poll() is not None:
            raise _ended(server, said)
        if time.monotonic() > until:
            raise ServerError(f"the server did not answer within {PATIENCE} s; it said: {_last(said)}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    line = HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        line.request("GET", "/")
        return line.getresponse().status < 500
    except (OSError, HTTPException):
        return False
    finally:
        line.close()


def _ended(server: subprocess.Popen[bytes], said: IO[bytes]) -> ServerError:
    return ServerError(f"the server ended by itself with code {server.returncode}; it said: {_last(said)}")


def _last(said: IO[bytes]) -> str:
    """The last lines of what a server said."""
    said.seek(0)
    return "\n".join(said.read().decode(errors="replace").strip().splitlines()[-5:]) or "nothing"
