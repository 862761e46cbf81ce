"""The `status` command: text, tree, JSON and watch agree, refuse what they cannot read, and write nothing."""

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
from helpers.observed import arm, driving, finished, run_status
from rich.console import Console

from tune_interpreg.status import text
from tune_interpreg.status.observer import Observer
from tune_interpreg.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_json_and_text_agree(store: Store) -> None:
    with driving(store, study(checks="{images: 10}")) as dispatcher:
        for count, _ in enumerate(steps(dispatcher, workers=2)):
            if count == 28:
                break
        content = json.loads(run_status(str(store.path), "--json").stdout)
        plain = run_status(str(store.path)).stdout.splitlines()
        status = Observer(store).read_status()
    assert json.dumps(content["arms"]) == json.dumps(asdict(status)["arms"])
    assert plain[0].startswith(f"{content['study']}: running; {content['settled']} of {content['total']} parts settled")
    for entry in content["arms"]:
        lines = [line.removeprefix(f"{entry['name']}: ") for line in plain if line.startswith(f"{entry['name']}: ")]
        counts = [f"{s['name']} {s['done'] + s['lost']}/{s['total']}" for s in entry["stages"]]
        assert lines[0] == ", ".join(counts)
        has_target = entry["match"] and entry["match"]["target"] is not None
        assert len(lines) == 1 + len(entry["running"]) + sum(map(bool, (entry["best"], entry["waits"], has_target)))
    assert any(entry["running"] for entry in content["arms"])


def test_a_terminal_shows_a_tree_that_fits_its_height(store: Store) -> None:
    status = finished(store, study(checks="{images: 10}"))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(text.tree(status, 100))
    shown = console.export_text()
    assert re.search(r"└── adversarial +━+  repeats 2/2  maps 1/1  judgments 2/2", shown)
    assert "interval [" in shown
    for height in (6, 12):
        console.print(text.tree(status, 100, height))
        assert len(console.export_text().splitlines()) <= height


@pytest.mark.parametrize("form", [[], ["--json"], ["--watch"]])
def test_a_folder_that_is_no_store_is_refused_in_one_line(store: Store, form: list[str]) -> None:
    def refused() -> str:
        result = run_status(str(store.path), *form)
        assert (result.exit_code, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    assert refused().startswith(f"error: {store.path}: ")
    store.path.mkdir()
    (store.path / "thesis.tex").touch()
    assert refused().startswith(f"error: {store.path}: ")
    store.study_file.write_text("arms: [")
    assert refused().startswith(f"error: {store.study_file}: ")


def test_damaged_files_are_named_and_left_alone(store: Store) -> None:
    finished(store, study("standard", "adversarial", "robust"))
    key = next(record["model"] for record in store.records() if record["arm"] == "standard")
    record = store.record_file("standard", key)
    record.write_text("{")
    store.choice_file("robust").write_text("{}")
    status = Observer(store).read_status()
    assert [str(path) in line for path, line in zip((record, store.choice_file("robust")), status.damaged, strict=True)]
    assert arm(status, "standard").stages[0].done == 1
    shown = run_status(str(store.path))
    assert shown.exit_code == 0
    assert f"2 damaged files, the first: {record}: " in shown.stdout
    assert record.read_text() == "{"


def test_nothing_is_written_and_a_watch_ends_with_the_study(store: Store) -> None:
    finished(store, study("standard"))
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    for form in ([], ["--json"], ["--watch", "--every", "0.1"]):
        shown = run_status(str(store.path), *form)
        assert shown.exit_code == 0
    assert shown.stdout.count("4 of 4 parts settled") == 1
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


def test_options_that_contradict_are_refused(store: Store) -> None:
    assert run_status(str(store.path), "--watch", "--json").exit_code == 2


def test_ctrl_c_ends_a_watch_quietly_and_no_large_package_is_loaded(store: Store) -> None:
    with driving(store, study("standard")) as dispatcher:
        next(steps(dispatcher))
    command = [sys.executable, "-X", "importtime", "-m", "tune_interpreg", "status", str(store.path), "--watch"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("study: stopped; ")
        process.send_signal(signal.SIGINT)
        _, imported = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = imported.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert not loaded & {"torch", "ray", "optuna", "numpy", "pandas", "scipy"}
