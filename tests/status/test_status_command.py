"""The `status` command: text, tree, JSON and watch say the same, refuse what they cannot read, and write nothing."""

import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.closed_form import steps, study
from helpers.observed import arm, driving, finished, told
from rich.console import Console

from tune_interpreg.schedule import stages
from tune_interpreg.status import text
from tune_interpreg.status.observer import Observer
from tune_interpreg.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_json_says_what_the_text_says(store: Store) -> None:
    with driving(store, study(checks="{images: 10}")) as dispatcher:
        for count, _ in enumerate(steps(dispatcher, workers=2)):
            if count == 28:
                break
        known = json.loads(told(str(store.path), "--json").stdout)
        plain = told(str(store.path)).stdout.splitlines()
        status = Observer(store).read_status()
    assert json.dumps(known["arms"]) == json.dumps(asdict(status)["arms"])
    assert plain[0].startswith(f"{known['study']}: running; {known['settled']} of {known['total']} parts settled")
    for one in known["arms"]:
        own = [line.removeprefix(f"{one['name']}: ") for line in plain if line.startswith(f"{one['name']}: ")]
        counts = [f"{stages.NAMES[s['role']]} {s['done'] + s['lost']}/{s['total']}" for s in one["stages"]]
        assert own[0] == ", ".join(counts)
        assert len(own) == 1 + len(one["running"]) + sum(map(bool, (one["best"], one["waits"]))) + _matches(one)
    assert any(one["running"] for one in known["arms"])


def _matches(one: dict) -> int:
    return int(bool(one["match"]) and one["match"]["target"] is not None)


def test_a_terminal_shows_a_tree_and_a_watched_one_fits_it(store: Store) -> None:
    status = finished(store, study(checks="{images: 10}"))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(text.tree(status, 100))
    shown = console.export_text()
    assert re.search(r"└── adversarial +━+  repeats 2/2  maps 1/1  checks 2/2", shown)
    assert "interval [" in shown
    for height in (6, 12):
        console.print(text.tree(status, 100, height))
        assert len(console.export_text().splitlines()) <= height


@pytest.mark.parametrize("form", [[], ["--json"], ["--watch"]])
def test_a_folder_that_is_no_store_is_refused_in_one_line(store: Store, form: list[str]) -> None:
    def refused() -> str:
        result = told(str(store.path), *form)
        assert (result.exit_code, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    assert refused() == f"error: {store.path}: is no store (it has no study.yaml); `run` makes one\n"
    store.path.mkdir()
    (store.path / "thesis.tex").touch()
    assert "is no store" in refused()
    store.study_file.write_text("arms: [")
    assert f"error: {store.study_file}: cannot be read as a study: is damaged" in refused()


def test_damaged_files_are_told_and_left_alone(store: Store) -> None:
    of = study("standard", "adversarial", "robust")
    finished(store, of)
    record = next(store.path.glob("ledger/standard/*.json"))
    record.write_text("{")
    store.choice_file("robust").write_text("{}")
    found = Observer(store).read_status()
    assert [str(path) in line for path, line in zip((record, store.choice_file("robust")), found.damaged, strict=True)]
    assert next(iter(arm(found, "standard").stages)).done == 1
    shown = told(str(store.path))
    assert shown.exit_code == 0
    assert f"2 damaged files, the first: {record}: is damaged" in shown.stdout
    assert record.read_text() == "{"


def test_nothing_is_written(store: Store) -> None:
    finished(store, study("standard"))
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    for form in ([], ["--json"], ["--watch"]):
        assert told(str(store.path), *form).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


def test_watching_ends_with_the_study(store: Store) -> None:
    finished(store, study("standard"))
    shown = told(str(store.path), "--watch", "--every", "0.1")
    assert (shown.exit_code, shown.stdout.count("study: finished; 2 of 2 parts settled")) == (0, 1)


@pytest.mark.parametrize("arguments", [("--watch", "--json"), ("--every", "0")])
def test_options_that_do_not_fit_are_refused(store: Store, arguments: tuple[str, ...]) -> None:
    assert told(str(store.path), *arguments).exit_code == 2


def test_a_watch_is_left_quietly_with_ctrl_c(store: Store) -> None:
    with driving(store, study("standard")) as dispatcher:
        next(steps(dispatcher))
    command = [sys.executable, "-X", "importtime", "-m", "tune_interpreg", "status", str(store.path), "--watch"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("study: stopped; the same run command goes on with it; 0 of 2")
        process.send_signal(signal.SIGINT)
        _, imported = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = imported.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert not loaded & {"torch", "ray", "optuna", "numpy", "pandas", "scipy"}
