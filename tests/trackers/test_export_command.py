"""`export`: files with the DataFrame, and bad input."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.cli import output, refusal
from helpers.closed_form import study
from helpers.plugins import install_plugin, installed
from helpers.tracked import install_lines, read_lines, store_of

import tune_interpreg
from tune_interpreg.store.store import Store
from tune_interpreg.trackers.tracker import SHIPPED, TrackerError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(tmp_path_factory.mktemp("export") / "store")


def read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, parse_dates=["finished"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_holds_the_data_frame(kind: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / f"results.{kind}"
    assert output("export", kind, str(store.path), "--output", str(path)) == f"{path}\n"
    frame = tune_interpreg.results(store.path)
    read = pd.read_parquet(path) if kind == "parquet" else read_csv(path)
    read["finished"] = read["finished"].dt.as_unit("s")  # Parquet has milliseconds
    assert [json.loads(params) for params in read.pop("params")] == list(frame.pop("params"))
    pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_without_a_file_the_report_folder_gets_it(store: Store) -> None:
    path = store.report_dir / "results.csv"
    assert output("export", "csv", str(store.path)) == f"{path}\n"
    assert path.is_file()
    assert tune_interpreg.export(store.path, "csv") == str(path)


def test_a_file_that_cannot_be_written_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal("export", "csv", str(store.path), "--output", str(tmp_path / "file" / "results.csv"))
    assert "results.csv: cannot be written (" in message
    assert "name another file with --output" in message


def test_an_unknown_tracker_is_refused_with_the_names_of_all(store: Store) -> None:
    assert refusal("export", "wanb", str(store.path)) == (
        'error: unknown tracker "wanb"; there are: csv, mlflow, parquet, wandb'
    )
    assert refusal("run", "digits", "--track", "csv") == 'error: unknown tracker "csv"; there are: mlflow, wandb'


@pytest.mark.parametrize("name", SHIPPED)
def test_a_tracker_that_is_not_installed_is_refused_with_its_extra(
    name: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"error: {name}: is not installed; install it: pip install 'tune-interpreg[{name}]'"
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not
    monkeypatch.chdir(tmp_path)
    assert refusal("export", name, str(store.path)) == expected
    assert refusal("run", "digits", "--track", name) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_trackers_name_is_not_its_package(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B and MLflow leave their files in the working folder, from which Python imports, too."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "wandb: is not installed" in refusal("export", "wandb", str(store.path))


def test_a_store_without_records_and_a_folder_that_is_none_are_refused(tmp_path: Path) -> None:
    empty = Store(tmp_path / "empty")
    empty.save_study(study("standard"))
    for to in ("csv", "parquet"):
        assert (
            refusal("export", to, str(empty.path)) == f"error: {empty.path}: holds no record yet; run its study first"
        )
        assert "is no store" in refusal("export", to, str(tmp_path))


def test_an_output_belongs_to_files(store: Store, tmp_path: Path) -> None:
    with installed(install_lines(tmp_path)):
        message = refusal("export", "lines", str(store.path), "--output", "x.csv")
        assert message == "error: --output is the file of csv and parquet; lines has none, got x.csv"
        with pytest.raises(TrackerError):
            tune_interpreg.export(store.path, "lines", "x.csv")


# --------------------------------------------------------------------------- plugins
def test_a_plugin_receives_every_training_and_the_tables(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with installed(install_lines(tmp_path / "site")):
        assert output("export", "lines", str(store.path)) == "lines: 11 trainings in study.jsonl\n"
    *rows, tables = read_lines(tmp_path / "study.jsonl")
    assert len({row["id"] for row in rows}) == 11
    assert "tables.csv" in tables["tables"]


def test_a_read_only_store_can_be_exported(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    with installed(install_lines(tmp_path / "site")):
        output("export", "lines", str(store.path))
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("start", "ConnectionError: no server at example.org"), ("run", "TimeoutError: the server does not answer")],
)
def test_a_tracker_that_raises_is_one_message(
    fault: str, reason: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES_FAULT", fault)
    with installed(install_lines(tmp_path)):
        message = refusal("export", "lines", str(store.path))
    assert message.startswith(f"error: lines: {reason} (")
    assert "/lab_lines.py:" in message
    assert message.endswith("export again once it is repaired")


def test_a_plugin_that_cannot_be_imported_is_named(store: Store, tmp_path: Path) -> None:
    point = "[tune_interpreg.trackers]\nbroken = lab_broken:Tracker\n"
    with installed(install_plugin(tmp_path, "lab_broken", "import no_such_module", point)):
        message = refusal("export", "broken", str(store.path))
    assert "broken (lab_broken:Tracker, of lab-broken) cannot be imported: ModuleNotFoundError" in message
