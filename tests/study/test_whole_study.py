"""A whole study as a user runs it: the command in its own process, real Ray, real files, a slice of the digits."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers.in_process import run_study

from tune_interpreg import results
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.metric_names import TRAIN_LOSS

STUDY = """\
data: {name: digits, train_limit: 160, validation: 60, test_limit: 60}
model: digits_cnn
training: {epochs: 2, batch_size: 32, lr: 0.05}
attack: {norm: l2, eps: 0.5, steps: 2}
seeds: [0, 1]
checks: {images: 20}
arms:
  standard: {method: standard}
  adversarial: {method: adversarial}
  interp_robust:
    method: interpretation
    targets: {teacher: adversarial, samples: 3}
    search:
      space: {lambda: {log_uniform: [0.01, 1.0]}, phi: {choice: [0.0, 1.0]}}
      maximize: val/adv_accuracy
      trials: 2
  interp_permuted:
    method: interpretation
    targets: {teacher: adversarial, samples: 3, permute: true}
    search: {space: {lambda: {log_uniform: [0.01, 1.0]}}, match_loss_of: interp_robust, trials: 2}
  jacobian:
    method: jacobian
    search: {space: {lambda_j: {log_uniform: [0.001, 1.0]}}, match_loss_of: interp_robust, trials: 2}
"""
pytestmark = pytest.mark.ray

REPEATS, SEARCHES, MAPS, CHECKS = 10, 6, 1, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study file and its finished store, made on a local Ray."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "slice.yaml").write_text(STUDY)
    (folder / "printed").write_text(succeed(folder, "run", "slice.yaml", "--store", "store"))
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tune_interpreg", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"COLUMNS": "200"},
    )


def succeed(folder: Path, *arguments: str) -> str:
    """Return the output of a command that succeeds."""
    ran = command(folder, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def metrics_of(store: Store) -> dict[tuple[str, int], dict[str, float]]:
    """Return (arm, seed) → metrics of the repeats and of the judgments of their models."""
    frame = results(store.path)
    return {key: dict(zip(group.metric, group.value, strict=True)) for key, group in frame.groupby(["arm", "seed"])}


def count_kinds(records: Iterable[Record]) -> Counter[str]:
    """Return how many records there are of each kind; judgments that are checks count as checks."""
    kinds = ((record["kind"], record.get("measure", {}).get("kind")) for record in records)
    return Counter("checks" if measure == "checks" else kind for kind, measure in kinds)


def test_every_part_is_done_once_with_its_curves_and_table(folder: Path) -> None:
    store = Store(folder / "store")
    records = store.records()
    kinds = count_kinds(records)
    assert {record["state"] for record in records} == {"done"}
    # The chosen trial of interp_robust is the repeat of its seed. A match need not repeat a trial.
    assert kinds["train"] < REPEATS + SEARCHES
    assert (kinds["maps"], kinds["checks"]) == (MAPS, CHECKS)
    printed = (folder / "printed").read_text()
    assert len({path.parent for path in store.path.glob("tensorboard/*/*/events.*")}) >= kinds["train"]
    assert not [*store.path.glob("checkpoints/*"), *store.path.glob(".tune")]
    for expected in ("Table 1", "compat", "strict", "10 of 10 repeats done", "tune-interpreg tensorboard"):
        assert expected in printed


def test_matched_arms_target_the_mean_loss_of_their_reference(folder: Path) -> None:
    store = Store(folder / "store")
    losses = [metrics[TRAIN_LOSS] for (arm, _), metrics in metrics_of(store).items() if arm == "interp_robust"]
    for arm in ("interp_permuted", "jacobian"):
        choice = store.read_choice(arm)
        assert choice is not None
        assert choice["target"] == pytest.approx(sum(losses) / 2, rel=1e-12)


def test_a_finished_study_prints_its_results_and_changes_nothing(folder: Path) -> None:
    files = [*(folder / "store").glob("ledger/*/*.json"), folder / "store" / "optuna.journal"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert "Table 1" in succeed(folder, "run", "slice.yaml", "--store", "store")
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_report_prints_and_writes_all_tables(folder: Path) -> None:
    printed = succeed(folder, "report", "store")
    assert "Table 1" in printed
    assert "Table 3" in printed
    tables = (folder / "store" / "report" / "tables.md").read_text().split("\n## ")
    titles = {table.partition(".")[0] for table in tables if "\n| Adv. Training |" in table}
    assert titles >= {"Table 1", "Table 3"}
    (honesty,) = [table for table in tables if table.startswith("Honesty checks")]
    assert re.search(r"^\| ball \|( (PASS|WARN \d of 2), n = \d+ \|)+$", honesty, re.MULTILINE)


def test_a_grown_study_runs_only_what_is_new_and_in_process_agrees(folder: Path) -> None:
    """With one more arm and without a cluster, old records stay, and both places give equal bits."""
    store, fresh = Store(folder / "store"), Store(folder / "fresh")
    before = {record["key"] for record in store.records()}
    extra = "  interp_standard:\n    {method: interpretation, targets: {teacher: standard, samples: 3}, lambda: 0.1}\n"
    (folder / "grown.yaml").write_text(STUDY + extra)
    (folder / "fresh.yaml").write_text(STUDY[: STUDY.index("  interp_robust")] + extra)
    arguments = ("--set", "name=slice", "--cluster", "in-process")
    succeed(folder, "run", "grown.yaml", *arguments, "--store", "store")
    new = [record for record in store.records() if record["key"] not in before]
    kinds = count_kinds(new)
    assert (kinds["train"], kinds["maps"], kinds["checks"]) == (2, 1, 2)

    succeed(folder, "run", "fresh.yaml", *arguments, "--store", "fresh")
    there, here = metrics_of(store), metrics_of(fresh)
    for arm in ("standard", "adversarial", "interp_standard"):
        assert there[arm, 1] == here[arm, 1]


def test_a_failed_item_is_recorded_shown_and_run_again_on_request(tmp_path: Path) -> None:
    """A teacher's weights are unreadable: its maps fail. They are made after the weights are restored."""
    study = STUDY[: STUDY.index("  interp_permuted")].replace("trials: 2", "trials: 1")
    (tmp_path / "slice.yaml").write_text(study)
    store = Store(tmp_path / "store")
    run_study(store, study[: study.index("  interp_robust")])
    trainings = {(r["arm"], r["seed"]): r for r in store.records() if r["kind"] == "train"}
    teacher = trainings["adversarial", 0]
    weights, file = store.model_file(teacher["key"]), store.record_file("adversarial", teacher["key"])
    intact = {path: path.read_bytes() for path in (weights, file)}
    weights.write_bytes(b"no weights")
    store.write_record(teacher | {"files": store.checksums(weights)})  # so that the start of the run accepts them

    arguments = ("run", "slice.yaml", "--store", "store", "--cluster", "in-process")
    broken = command(tmp_path, *arguments)
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "FAILED" in broken.stdout
    assert "interp_robust has no target maps" in broken.stdout
    (failed,) = [record for record in store.records() if record["state"] == "failed"]
    assert str(weights) in failed["error"]

    for path, content in intact.items():
        path.write_bytes(content)
    assert "6 of 6 repeats done" in succeed(tmp_path, *arguments, "--retry-failed")
