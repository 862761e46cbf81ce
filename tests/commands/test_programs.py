"""Check that `tensorboard STORE` and `dashboard STORE` become the real programs, and what these show."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from helpers.cli import refusal
from helpers.closed_form import drain, study, worker

from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Item, Job, Train
from tune_interpreg.study.metric_names import VAL_ACCURACY, VAL_ADV_ACCURACY

pytestmark = pytest.mark.thorough

ARMS = ("adversarial", "robust", "jacobian")
TRIALS, SECONDS = 300, 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return the store of a finished study. Copies of its trials' curves fill it up to ``TRIALS`` runs."""
    store, whole = Store(tmp_path_factory.mktemp("programs") / "store"), study(*ARMS)
    store.save_study(whole)

    def answer(job: Job, item: Item) -> Record:
        record = worker(job, item)
        if isinstance(item, Train):
            log, metrics = (
                TrialLog(store.trial_log(job)),
                record["metrics"] | {VAL_ACCURACY: 0.9, VAL_ADV_ACCURACY: 0.5},
            )
            for epoch in range(1, 31):
                log.scalars(epoch, {name: value / epoch for name, value in metrics.items()})
            log.hparams({"arm": job.arm, "method": job.recipe.method} | job.recipe.params)
        return record

    drain(whole, store, answer)
    trials = sorted(store.tensorboard_dir.glob("*/*/"))
    for number in range(TRIALS - len(trials)):
        trial = trials[number % len(trials)]
        shutil.copytree(trial, trial.with_name(f"{trial.name}-{number}"))
    return store


class Page:
    """The pages of a program on this machine."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]):
        self.address, self.process = f"http://127.0.0.1:{port}/", process
        self.open = build_opener(ProxyHandler({})).open

    def get(self, path: str, question: Any = None) -> Any:
        """Return a page, as JSON if it is JSON, once the program answers. A question is sent as JSON."""
        body = None if question is None else json.dumps(question).encode()
        request = Request(self.address + path, body, {"Content-Type": "application/json"})
        until = time.monotonic() + SECONDS
        while True:
            try:
                with self.open(request, timeout=SECONDS) as answer:
                    text = answer.read().decode()
                return json.loads(text) if text[:1] in ("[", "{") else text
            except URLError:
                assert self.process.poll() is None, "the program ended"
                assert time.monotonic() < until, "the program does not answer"
                time.sleep(0.1)


@contextmanager
def started(command: str, store: Store) -> Iterator[Page]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = [sys.executable, "-m", "tune_interpreg", command, str(store.path), "--", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield Page(port, process)
            assert command in Path(f"/proc/{process.pid}/cmdline").read_text()
        finally:
            process.terminate()


def test_tensorboard_shows_all_trials_with_their_parameters_and_accuracies(store: Store) -> None:
    with started("tensorboard", store) as page:
        assert "TensorBoard" in page.get("")
        until = time.monotonic() + SECONDS
        while len(runs := page.get("data/plugin/scalars/tags")) < TRIALS:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert {len(tags) for tags in runs.values()} == {3}
        experiment = page.get("data/plugin/hparams/experiment", {"experimentName": ""})
        assert {"method", "lambda", "phi", "lambda_j"} <= {info["name"] for info in experiment["hparamInfos"]}
        question = {"experimentName": "", "startIndex": 0, "sliceSize": TRIALS}
        question |= {"allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"], "colParams": []}
        groups = page.get("data/plugin/hparams/session_groups", question)["sessionGroups"]
        assert len(groups) == TRIALS
        assert {group["hparams"]["arm"] for group in groups} == set(ARMS)


def test_dashboard_shows_the_searches_and_the_signed_residuals_of_a_match(store: Store) -> None:
    with started("dashboard", store) as page:
        studies = {one["study_name"]: one for one in page.get("api/studies")["study_summaries"]}
        assert {name: one["directions"] for name, one in studies.items()} == {
            "robust": ["maximize"],
            "jacobian": ["minimize"],
        }
        trials = page.get(f"api/studies/{studies['jacobian']['study_id']}")["trials"]
        assert len(trials) == 4
        signs = set()
        for trial in trials:
            attributes = {entry["key"]: entry["value"] for entry in trial["user_attrs"]}
            residual = json.loads(attributes["residual"])
            assert trial["values"] == pytest.approx([abs(residual)])
            signs.add(residual > 0)
        assert signs == {True, False}


@pytest.mark.parametrize("command", ["tensorboard", "dashboard"])
def test_a_folder_that_is_no_store_is_refused(command: str, tmp_path: Path) -> None:
    assert refusal(command, str(tmp_path)).startswith(f"error: {tmp_path}: ")


def test_a_store_without_a_search_has_no_dashboard(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_study(study("standard"))
    assert refusal("dashboard", str(tmp_path)).startswith(f"error: {store.journal}: ")


def test_a_program_that_is_not_installed_is_named_with_its_remedy(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "pip install 'tune-interpreg[dashboard]'" in refusal("dashboard", str(store.path))
