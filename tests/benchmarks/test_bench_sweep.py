"""The trial that the sweep's benchmark runs by the thousand is one that a study takes."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import sweep_rival
import sweep_trials

PEAK = {"x": 0.3, "y": -0.2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))


def test_a_trial_ends_with_the_record_of_its_point() -> None:
    trial = sweep_trials.Parabola({"data": {"name": "digits"}} | PEAK)
    record = json.loads(trial.step()["record"])
    trial.cleanup()
    assert record["state"] == "done"
    assert record["metrics"] == {"0": {"train/loss": 0.0, "val/accuracy": 1.0}}
    assert record["curves"] == {"0": [record["metrics"]["0"]]}


def test_plain_tune_looks_for_the_same_peak() -> None:
    assert sweep_rival.Plain(PEAK).step() == {"train/loss": 0.0, "val/accuracy": 1.0, "done": True}
