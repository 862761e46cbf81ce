"""optuna-dashboard opens a study's journal: every search is there, and what a match is judged by."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from helpers.closed_form import drain, study

from tune_interpreg.store.store import Store


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard on loopback, over the journal of a whole study."""
    store = Store(tmp_path_factory.mktemp("store"))
    drain(study("adversarial", "robust", "jacobian"), store)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    command = [program, "--host", "127.0.0.1", "--port", port, str(store.journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        yield f"http://127.0.0.1:{port}/api/studies"
        server.terminate()


def fetched(address: str, seconds: float = 60) -> Any:
    """What the dashboard answers, once it does."""
    until = time.monotonic() + seconds
    while True:
        try:
            with urlopen(address) as answer:
                return json.load(answer)
        except URLError:
            assert time.monotonic() < until, "the dashboard did not answer"
            time.sleep(0.2)


def trials(api: str, arm: str) -> list[dict[str, Any]]:
    (number,) = [one["study_id"] for one in fetched(api)["study_summaries"] if one["study_name"] == arm]
    found: list[dict[str, Any]] = fetched(f"{api}/{number}")["trials"]
    return found


def test_the_dashboard_lists_the_searches_with_their_directions(api: str) -> None:
    known = {one["study_name"]: one["directions"] for one in fetched(api)["study_summaries"]}
    assert known == {"robust": ["maximize"], "jacobian": ["minimize"]}


def test_a_match_shows_the_distance_and_keeps_the_signed_residual(api: str) -> None:
    shown = trials(api, "jacobian")
    assert len(shown) == 4
    signs = set()
    for trial in shown:
        attributes = {one["key"]: one["value"] for one in trial["user_attrs"]}
        (value,), residual = trial["values"], json.loads(attributes["residual"])
        assert attributes["state"] == "done"
        assert value == pytest.approx(abs(residual))
        signs.add(residual > 0)
    assert signs == {True, False}
