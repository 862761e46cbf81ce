"""A whole study as a user runs it: the command in a process of its own, real Ray, real files, a slice of the digits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tune_interpreg.store.files import file_checksum, read_checked, with_checksum

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
REPEATS, SEARCHES, MAPS, CHECKS = 10, 6, 1, 10
ALL = REPEATS + SEARCHES + MAPS + CHECKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study file and its finished store, run on a local Ray."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "slice.yaml").write_text(STUDY)
    ran = command(folder, "run", "slice.yaml", "--store", "store")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (folder / "printed").write_text(ran.stdout)
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


def ledger(store: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in store.glob("ledger/*/*.json")}


def repeats(store: Path) -> dict[tuple[str, int], dict]:
    """The metrics of each arm and seed."""
    records = [record for record in ledger(store).values() if record["role"] == "repeat"]
    return {(one["arm"], seed): one["metrics"][str(seed)] for one in records for seed in one["seeds"]}


def test_every_part_is_done_once_and_both_tables_are_printed(folder: Path) -> None:
    records = ledger(folder / "store").values()
    roles = [record["role"] for record in records]
    assert {record["state"] for record in records} == {"done"}
    assert [roles.count(role) for role in ("repeat", "search", "targets", "checks")] == [
        REPEATS,
        SEARCHES,
        MAPS,
        CHECKS,
    ]
    printed = (folder / "printed").read_text()
    for expected in ("Table 1", "Table 3", "compat", "strict", "10 of 10 repeats done", "tune-interpreg tensorboard"):
        assert expected in printed
    assert len(re.findall(r"\d+\.\d+ ± \d+\.\d+", printed)) >= 5 * 5


def test_the_matched_arms_rest_on_their_reference(folder: Path) -> None:
    """A match targets the mean training loss of the reference's repeats."""
    losses = [one["train/loss"] for (arm, _), one in repeats(folder / "store").items() if arm == "interp_robust"]
    for arm in ("interp_permuted", "jacobian"):
        choice = json.loads((folder / "store" / "choices" / f"{arm}.json").read_text())
        assert choice["target"] == pytest.approx(sum(losses) / 2, rel=1e-12)


def test_every_trial_has_tensorboard_events_and_no_checkpoint_is_left(folder: Path) -> None:
    store = folder / "store"
    assert len(list(store.glob("tensorboard/*/*/events.*"))) == REPEATS + SEARCHES
    assert list(store.glob("checkpoints/*")) == []
    assert not (store / ".tune").exists()


def test_a_finished_study_prints_its_tables_at_once(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").glob("ledger/*/*.json")}
    journal = (folder / "store" / "optuna.journal").read_bytes()
    ran = command(folder, "run", "slice.yaml", "--store", "store")
    assert ran.returncode == 0
    assert "Table 1" in ran.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "store").glob("ledger/*/*.json")} == before
    assert (folder / "store" / "optuna.journal").read_bytes() == journal


def test_report_prints_the_same_tables(folder: Path) -> None:
    ran = command(folder, "report", "store")
    assert ran.returncode == 0
    table = next(line for line in ran.stdout.splitlines() if "Adv. Training" in line)
    assert table in (folder / "printed").read_text()
    tables = (folder / "store" / "report" / "tables.md").read_text().split("\n## ")
    holding = [table.splitlines()[0] for table in tables if "\n| Adv. Training |" in table]
    assert {title.partition(".")[0] for title in holding} == {"Table 1", "Table 3", "Answer"}
    (honesty,) = [table for table in tables if table.startswith("Honesty checks")]
    assert re.search(r"^\| ball \|( (PASS|WARN \d of 2) \|)+$", honesty, re.MULTILINE)


def test_another_setting_is_refused_and_nothing_changes(folder: Path) -> None:
    ran = command(folder, "run", "slice.yaml", "--store", "store", "--set", "training.epochs=3")
    assert ran.returncode == 2
    assert "training.epochs is 2 there, 3 here" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ledger(folder / "store")) == ALL


@pytest.mark.slow
def test_a_grown_study_runs_only_what_is_new_and_in_process_agrees(folder: Path) -> None:
    """One arm and one seed more, without a cluster: the old records stay, and equal bits come from either place."""
    before = set(ledger(folder / "store"))
    extra = "  interp_standard:\n    {method: interpretation, targets: {teacher: standard, samples: 3}, lambda: 0.1}\n"
    (folder / "grown.yaml").write_text(STUDY + extra)
    arguments = ("run", "grown.yaml", "--set", "name=slice", "--cluster", "in-process")
    grown = command(folder, *arguments, "--store", "store")
    assert grown.returncode == 0, grown.stdout + grown.stderr
    new = [record for key, record in ledger(folder / "store").items() if key not in before]
    assert sorted(record["role"] for record in new) == ["checks", "checks", "repeat", "repeat", "targets"]

    fresh = command(folder, *arguments, "--store", "fresh")
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    there, here = repeats(folder / "store"), repeats(folder / "fresh")
    for arm in ("standard", "adversarial", "interp_standard"):
        assert there[arm, 1] == here[arm, 1]


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """kill -9 of the driver in the middle: what was done stays, and the numbers are those of no kill."""
    (tmp_path / "slice.yaml").write_text(STUDY)
    arguments = [sys.executable, "-m", "tune_interpreg", "run", "slice.yaml", "--store", "store"]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(arguments, cwd=tmp_path, stdout=log, stderr=log)
        wait_for(lambda: len(ledger(tmp_path / "store")) >= 5, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    done = {key: record["finished"] for key, record in ledger(tmp_path / "store").items()}
    assert 5 <= len(done) < ALL

    again = command(tmp_path, "run", "slice.yaml", "--store", "store")
    assert again.returncode == 0, again.stdout + again.stderr
    after = ledger(tmp_path / "store")
    assert {key: after[key]["finished"] for key in done} == done
    assert len(after) == ALL
    there, here = repeats(folder / "store"), repeats(tmp_path / "store")
    for arm in ("standard", "adversarial"):
        assert [there[arm, seed] for seed in (0, 1)] == [here[arm, seed] for seed in (0, 1)]


def test_a_failed_item_is_recorded_shown_and_run_again_on_demand(tmp_path: Path) -> None:
    """A teacher's weights are no weights: its maps are tried three times, given up, told, and made after the mend."""
    study = STUDY[: STUDY.index("  interp_permuted")]
    (tmp_path / "slice.yaml").write_text(study.replace("trials: 2", "trials: 1"))
    arguments = ("run", "slice.yaml", "--store", "store", "--cluster", "in-process")
    teachers = study[: study.index("  interp_robust")]
    (tmp_path / "teachers.yaml").write_text(teachers)
    first = command(tmp_path, "run", "teachers.yaml", "--store", "store", "--cluster", "in-process")
    assert first.returncode == 0, first.stdout + first.stderr
    records = ledger(tmp_path / "store").items()
    trained = {(one["arm"], *one["seeds"]): key for key, one in records if one["role"] == "repeat"}
    key = trained["adversarial", 0]
    name, record = f"models/{key}/seed-0.safetensors", tmp_path / "store" / "ledger" / "adversarial" / f"{key}.json"
    weights = tmp_path / "store" / name
    content = {path: path.read_bytes() for path in (weights, record)}
    weights.write_bytes(b"no weights")
    own = read_checked(record)
    own["files"][name] = file_checksum(weights)  # else it would be seen as damaged, and made anew
    record.write_text(json.dumps(with_checksum(own)))

    broken = command(tmp_path, *arguments)
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "FAILED" in broken.stdout
    assert "interp_robust has no target maps" in broken.stdout
    (failed,) = [one for one in ledger(tmp_path / "store").values() if one["state"] == "failed"]
    assert "SafetensorError" in failed["error"]

    for path, before in content.items():
        path.write_bytes(before)
    mended = command(tmp_path, *arguments, "--retry-failed")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "6 of 6 repeats done" in mended.stdout


def wait_for(condition, process: subprocess.Popen, seconds: float = 180) -> None:
    """Poll until ``condition()``; fails when time is up or the process ended first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run never got there"
        time.sleep(0.05)
