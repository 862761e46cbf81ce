"""`tensorboard STORE` and `dashboard STORE` run the real programs on loopback until they are asked to end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from click.testing import Result
from helpers.closed_form import steps, study, worker
from rich.console import Console
from typer.testing import CliRunner

from tune_interpreg.cli import app
from tune_interpreg.commands.serving import ServerError, serve
from tune_interpreg.display.lines import Lines
from tune_interpreg.display.tensorboard import Overview
from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Item

ARMS = ("adversarial", "robust", "jacobian")
TRIALS, SECONDS = 300, 20


def trained(store: Store, item: Item) -> Record:
    """The closed form's answer, with the curves of a trial."""
    record = worker(item)
    log = TrialLog(store.trial_log(item))
    for epoch in range(1, 31):
        log.scalars(epoch, {name: value / epoch for name, value in record["metrics"][str(item.seeds[0])].items()})
    log.hparams({"arm": item.arm, "method": item.recipe.method} | item.recipe.params)
    return record


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a whole study, with as many copies of its trials' curves as make ``TRIALS`` runs."""
    store, of = Store(tmp_path_factory.mktemp("serving") / "store"), study(*ARMS)
    store.save_study(of)
    dispatcher = Dispatcher(of, store, "f")
    dispatcher.display = Overview(store, of, dispatcher.records, Lines(Console(quiet=True)))
    for _ in steps(dispatcher, lambda item: trained(store, item)):
        pass
    trials = sorted(store.tensorboard_dir.glob("*/*/"))
    for number in range(TRIALS - len(trials)):
        one = trials[number % len(trials)]
        shutil.copytree(one, one.with_name(f"{one.name}-{number}"))
    return store


class Server:
    """One of the two commands in a process of its own, once it has printed the addresses."""

    def __init__(self, *arguments: str):
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tune_interpreg", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"http_proxy": "http://127.0.0.1:9"},
        )
        assert self.process.stdout is not None
        self.printed = ""
        while "Ctrl-C" not in self.printed:
            self.printed += (line := self.process.stdout.readline())
            assert line, self.printed
        self.address = re.findall(r"http://127\.0\.0\.1:\d+/", self.printed)[0]

    def get(self, page: str, asked: Any = None) -> Any:
        """The page; JSON where it is ``asked`` by JSON, or begins as such."""
        body = None if asked is None else json.dumps(asked).encode()
        request = Request(self.address + page, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=SECONDS) as answer:
            text = answer.read().decode()
        return json.loads(text) if text[:1] in "[{" else text

    def end(self, number: signal.Signals) -> int:
        """Its exit code; whatever it started is gone too."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=SECONDS)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""
        self.process.stdout.close()
        with socket.socket() as line:
            assert line.connect_ex(("127.0.0.1", int(self.address.split(":")[2].strip("/")))) != 0
        return code


@pytest.fixture(scope="module")
def tensorboard(store: Store) -> Iterator[Server]:
    server = Server("tensorboard", str(store.path))
    yield server
    assert server.end(signal.SIGINT) == 0


def test_tensorboard_shows_all_trials_soon(tensorboard: Server) -> None:
    """All 300 and the study's own run, in a few seconds where the machine has nothing else to do."""
    assert "TensorBoard" in tensorboard.get("")
    while len(runs := tensorboard.get("data/plugin/scalars/tags")) < TRIALS + 1:
        assert time.monotonic() < tensorboard.began + SECONDS
        time.sleep(0.1)
    assert {len(tags) for run, tags in runs.items() if run != "."} == {3}


def test_tensorboard_shows_each_arm_in_custom_scalars(tensorboard: Server) -> None:
    layout = tensorboard.get("data/plugin/custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == list(ARMS)
    loss, _, *_ = layout["category"][1]["chart"]
    (curve,) = loss["multiline"]["tag"]
    found = tensorboard.get(f"data/plugin/custom_scalars/scalars?run=.&tag={curve}")
    assert [len(points) for points in found["tag_to_events"].values()] == [6]
    assert f"{tensorboard.address}#custom_scalars&" in tensorboard.printed


def test_tensorboards_hparams_have_all_parameters_and_the_accuracies(tensorboard: Server) -> None:
    known = tensorboard.get("data/plugin/hparams/experiment", {"experimentName": ""})
    assert {"method", "lambda", "phi", "lambda_j"} <= {info["name"] for info in known["hparamInfos"]}
    metrics = [info["name"] for info in known["metricInfos"]]
    assert {"val/accuracy", "val/adv_accuracy", "test/adv_accuracy_strict"} <= {name["tag"] for name in metrics}
    asked = {"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"]}
    columns = {"colParams": [{"metric": name} for name in metrics], "startIndex": 0, "sliceSize": TRIALS}
    groups = tensorboard.get("data/plugin/hparams/session_groups", asked | columns)["sessionGroups"]
    assert {group["hparams"]["arm"] for group in groups} == set(ARMS)
    assert len(groups) == TRIALS
    assert all(0 <= metric["value"] <= 3 for group in groups for metric in group["metricValues"])


def test_the_dashboard_shows_the_searches(store: Store) -> None:
    port = free_port()
    server = Server("dashboard", str(store.path), "--port", str(port))
    try:
        assert server.address == f"http://127.0.0.1:{port}/"
        assert "<title>Optuna Dashboard</title>" in server.get("dashboard")
        found = server.get("api/studies")["study_summaries"]
        assert {one["study_name"] for one in found} == {"robust", "jacobian"}
        taken = told("tensorboard", str(store.path), "--port", str(port))
        assert taken.exit_code == 2
        assert (
            f"error: --port {port}: cannot be listened to on 127.0.0.1 (address already in use); name" in taken.stderr
        )
    finally:
        assert server.end(signal.SIGTERM) == 0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def told(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


@pytest.mark.parametrize("command", ["tensorboard", "dashboard"])
def test_what_is_no_store_is_refused(command: str, tmp_path: Path) -> None:
    result = told(command, str(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {tmp_path}: is no store (it has no study.yaml); `run` makes one\n"


def test_a_store_without_a_search_has_no_dashboard(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_study(study("standard"))
    result = told("dashboard", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {store.journal}: is not there: no search of this study has begun")


def test_a_missing_dashboard_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    result = told("dashboard", str(tmp_path))
    assert result.exit_code == 2
    assert "pip install 'tune-interpreg[dashboard]'" in result.stderr


def test_what_ends_by_itself_is_told_with_its_last_words() -> None:
    with pytest.raises(
        ServerError, match=r"ended by itself with code 2; it said: (.|\n)*invalid int value: '127.0.0.1'"
    ):
        serve(("-m", "http.server"), None, {})


@pytest.mark.parametrize("command", ["tensorboard", "dashboard"])
def test_help_says_how_to_reach_it_from_elsewhere(command: str) -> None:
    text = told(command, "--help").stdout
    for taught in ("ssh -L", "this machine alone", f"tune-interpreg {command} runs/digits", "--port"):
        assert taught in text
