"""An address without Ray is refused within seconds."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from tune_interpreg.cluster.connection import NO_CLUSTER, PATIENCE, ClusterError, join

pytestmark = pytest.mark.ray


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
    assert message.endswith(NO_CLUSTER)
    return message


def test_an_address_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    assert f"{free} does not answer ([Errno 111] Connection refused)" in refusal(free)


def test_auto_where_the_ray_of_this_machine_answers_to_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the local Ray of another study: its address is this machine's, but it listens on loopback only."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr("tune_interpreg.cluster.ray_internals.address_here", lambda: free)
    assert f"{free} does not answer (" in refusal("auto")


def test_a_place_that_does_not_exist() -> None:
    assert "inprocess has no port" in refusal("inprocess")


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
