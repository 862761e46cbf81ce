"""Weights & Biases, offline, read back from the files that it would send."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.closed_form import failing, study
from helpers.tracked import EPOCHS, store_of
from helpers.wandb_files import OfflineRun, read_offline_runs

import tune_interpreg
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Train
from tune_interpreg.study.metric_names import TEST_STRICT, TRAIN_LOSS
from tune_interpreg.trackers.export import export

pytestmark = pytest.mark.thorough

pytest.importorskip("wandb", reason="needs the extra wandb")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder, where W&B writes."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_PROJECT", "robustness")
        yield folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="module")
def runs(store: Store, folder: Path) -> list[OfflineRun]:
    """Return the runs of a finished study that was exported; the last one has the tables."""
    assert export(store, "wandb") == "wandb: 11 trainings in project robustness, offline"
    return read_offline_runs(folder)


def test_runs_have_the_results_parameters_and_arms_of_the_data_frame(store: Store, runs: list[OfflineRun]) -> None:
    frame, by_key = tune_interpreg.results(store.path), {run.config["key"]: run for run in runs[:-1]}
    assert len(by_key) == len(runs) - 1 == 11
    for row in frame.itertuples():
        run = by_key[row.key]
        assert run.summary[row.metric] == row.value
        assert (run.fields["group"], run.fields["project"], run.exit_code) == (row.arm, "robustness", 0)
        assert run.config.items() >= row.params.items()
        assert run.config["training.lr"] == 0.01
    assert {run.fields["job_type"] for run in runs[:-1]} == {"search", "repeats"}
    assert len({run.fields["id"] for run in runs}) == len(runs)


def test_curves_have_the_epoch_as_step(runs: list[OfflineRun]) -> None:
    for run in runs[:-1]:
        loss = run.summary[TRAIN_LOSS]
        losses = {epoch: metrics[TRAIN_LOSS] for epoch, metrics in run.history.items()}
        assert losses == pytest.approx({epoch: loss + EPOCHS - epoch for epoch in (1, 2, 3)})


def test_the_tables_are_an_artifact(runs: list[OfflineRun]) -> None:
    names = ["rows.json", "tables.csv", "tables.json", "tables.md", "tables.tex"]
    assert (runs[-1].fields["name"], runs[-1].fields["group"]) == ("study tables", "tables")
    assert sorted(runs[-1].artifacts["tables"]) == names


def test_a_later_export_has_the_same_ids_and_the_results_of_failed_trainings(
    runs: list[OfflineRun], folder: Path, tmp_path: Path
) -> None:
    failed = failing(lambda job, item: isinstance(item, Train) and item.seed == 1)
    store = store_of(tmp_path / "store", study("standard"), failed)
    export(store, "wandb")
    first = read_offline_runs(folder)[len(runs) :]
    export(store, "wandb")
    second = read_offline_runs(folder)[len(runs) + len(first) :]
    assert [run.fields for run in second] == [run.fields for run in first]
    assert [(run.exit_code, TEST_STRICT in run.summary) for run in first] == [(0, True), (1, False), (0, False)]
    assert first[1].config["error"] == "as asked"


def test_without_a_key_the_remedies_are_named(store: Store, tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    ran = subprocess.run(
        [sys.executable, "-m", "tune_interpreg", "export", "wandb", str(store.path)],
        env=variables | {"HOME": str(tmp_path)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: wandb: PermissionError: no key for https://")
    assert "`wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline" in ran.stderr
