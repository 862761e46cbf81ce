"""`run --track`: what a run sends to trackers, and that no tracker ends or slows it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.closed_form import drain, study
from helpers.in_process import TEACHER, run_study
from helpers.plugins import installed
from helpers.tracked import curved, install_lines, read_lines, store_of

import tune_interpreg
from analysis.results.results import Results
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import TEST_STRICT
from tune_interpreg.trackers import processes
from tune_interpreg.trackers.export import follow
from tune_interpreg.trackers.processes import TrackerProcesses
from tune_interpreg.trackers.runs import list_runs

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the tracker ``lines`` installed for this process and those that it starts."""
    site = install_lines(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(processes, "PATIENCE", 200.0)  # a machine may be busy
    with installed(site):
        yield tmp_path


# ------------------------------------------------------------------------ following a store
def test_what_a_run_adds_is_sent_once_it_is_judged(folder: Path) -> None:
    """The study gets a seed, then an attack. Nothing is sent twice that did not change."""
    store = store_of(folder / "store", study("standard"))
    before = {key for run in list_runs(Results.from_store(store)) for key in run.records}
    grown = study("standard", "adversarial")

    def grow(_: float) -> bool:
        if not (folder / "study.jsonl").exists():
            store.save_study(grown)
            drain(grown, store, curved)
            return False
        return True

    assert follow(store, "lines", before, grow) == "lines: 2 trainings in study.jsonl"
    *rows, tables = read_lines(folder / "study.jsonl")
    assert [row["arm"] for row in rows] == ["adversarial"] * 2
    assert "tables.csv" in tables["tables"]
    assert all(TEST_STRICT in row for row in rows)


def test_a_training_without_its_judgments_waits_for_them(folder: Path) -> None:
    whole = store_of(folder / "whole", study("standard"))
    store = Store(folder / "store")
    store.save_study(study("standard"))
    records, sent = whole.records(), []
    train, rest = [r for r in records if r["kind"] == "train"], [r for r in records if r["kind"] == "judge"]

    def add(_: float) -> bool:
        sent.append(len(read_lines(folder / "study.jsonl")) if (folder / "study.jsonl").exists() else 0)
        for record in (train, rest, [])[len(sent) - 1] if len(sent) < 4 else ():
            store.write_record(record)
        return len(sent) == 4

    follow(store, "lines", set(), add)
    assert sent == [0, 0, 2, 2]


# ------------------------------------------------------------------------------ whole runs
SEEDS = TEACHER.replace("seeds: [0]", "seeds: [0, 1]")


def test_a_run_sends_its_trainings_and_a_resumed_one_what_it_adds(folder: Path) -> None:
    store = Store(folder / "store")
    printed = run_study(store, TEACHER, track=["lines"])
    assert "lines: 1 trainings in small.jsonl" in printed
    first, _ = read_lines(folder / "small.jsonl")
    assert (first["arm"], first["state"], first["epochs"]) == ("adversarial", "done", 2)
    frame = tune_interpreg.results(store.path)
    assert {row.metric: row.value for row in frame.itertuples()}.items() <= first.items()
    run_study(store, SEEDS, track=["lines"])
    rows = [row for row in read_lines(folder / "small.jsonl") if "id" in row]
    assert len(rows) == 2, "what was there before is not sent again"
    assert len({row["id"] for row in rows}) == 2
    assert "lines" not in run_study(store, SEEDS, track=["lines"]), "nothing ran, so there is nothing to send"


@pytest.mark.ray  # it starts commands in processes of their own
@pytest.mark.parametrize(
    ("fault", "reason"), [("start", "no server at example.org"), ("run", "the server does not answer")]
)
def test_a_broken_tracker_is_one_warning_and_an_export_repairs_it(
    fault: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES_FAULT", fault)
    store = Store(folder / "store")
    printed = run_study(store, SEEDS, track=["lines"])
    assert printed.count("warning: tracking stopped, the study continues") == 1
    assert reason in printed
    assert f"tune-interpreg export lines {store.path} sends what it lacks" in printed
    assert reason in store.log_file.read_text()
    assert not (folder / "small.jsonl").exists()
    monkeypatch.delenv("LINES_FAULT")
    ran = subprocess.run(
        [sys.executable, "-m", "tune_interpreg", "export", "lines", str(store.path)], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "lines: 2 trainings in small.jsonl\n"), ran.stderr
    assert len(read_lines(folder / "small.jsonl")) == 3


@pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning")  # as it shall be
def test_a_tracker_that_hangs_delays_the_end_by_a_bounded_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES_FAULT", "hang")
    monkeypatch.setattr(processes, "PATIENCE", 1.0)
    printed = run_study(Store(folder / "store"), TEACHER, track=["lines"])
    (line,) = (line for line in printed.splitlines() if line.startswith("warning: lines still receives results"))
    number = int(line.partition("in process ")[2].partition(";")[0])
    assert "tune_interpreg.trackers" in Path(f"/proc/{number}/cmdline").read_text()
    os.kill(number, 9)


def test_a_tracker_ends_after_its_driver_died(folder: Path) -> None:
    """The driver is killed: the system closes its end of the pipe."""
    store = store_of(folder / "store", study("standard"))
    code = (
        "import sys, time\nfrom tune_interpreg.store.store import Store\n"
        "from tune_interpreg.trackers.processes import TrackerProcesses\n"
        "trackers = TrackerProcesses(['lines'], Store(sys.argv[1]), print)\n"
        "trackers.__enter__()\nprint('ready', flush=True)\ntime.sleep(1000)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(store.path)], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"ready\n"
    driver.kill()
    driver.wait()
    driver.stdout.close()
    until = time.monotonic() + 120
    while not (folder / "study.jsonl").exists():
        assert time.monotonic() < until
        time.sleep(0.2)
    (tables,) = read_lines(folder / "study.jsonl")
    assert "tables.csv" in tables["tables"]


def test_a_tracker_is_started_once(folder: Path) -> None:
    store, said = store_of(folder / "store", study("standard")), []
    trackers = TrackerProcesses(["lines", "lines"], store, said.append)
    with trackers:
        pass
    assert trackers.wait() == ["lines: 0 trainings in study.jsonl"]
    assert said == []


def test_a_process_that_cannot_be_started_is_one_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    said: list[str] = []
    trackers = TrackerProcesses(["lines"], Store(folder / "store"), said.append)
    with trackers:
        pass
    assert trackers.wait() == []
    (line,) = said
    assert line.startswith("warning: the process for lines cannot be started (")


@pytest.mark.ray  # it starts a command in a process of its own
def test_a_study_is_tracked_by_mlflow(folder: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    (folder / "small.yaml").write_text(SEEDS)
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/runs.db", "OMP_NUM_THREADS": "1"}
    options = ["run", "small.yaml", "--track", "mlflow", "--cluster", "in-process"]
    words = [sys.executable, "-m", "tune_interpreg", *options]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "mlflow: 2 trainings in experiment small of sqlite:///" in ran.stdout
    client = mlflow.MlflowClient(f"sqlite:///{folder}/runs.db")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    metrics = {run.data.tags["key"]: run.data.metrics for run in runs if "key" in run.data.tags}
    frame = tune_interpreg.results(folder / "runs" / "small")
    assert len(runs) == 3
    for row in frame.itertuples():
        assert metrics[row.key][row.metric] == row.value
