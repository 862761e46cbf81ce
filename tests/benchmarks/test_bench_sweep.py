"""The sweep's trial gives a record that a study accepts, and its goals are those of the benchmark."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bench_sweep
import sweep_rival
import sweep_trials

PEAK = {"x": 0.3, "y": -0.2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))


def test_a_trial_ends_with_the_record_of_its_point() -> None:
    trial = sweep_trials.Parabola({"data": {"name": "digits"}} | PEAK)
    training, *judgments = json.loads(trial.step()["records"])
    trial.cleanup()
    assert training["state"] == "done"
    assert training["metrics"] == {"train/loss": 0.0}
    assert training["curve"] == [{"train/loss": 0.0, "val/accuracy": 1.0}]
    assert [record["metrics"] for record in judgments] == [{"val/accuracy": 1.0}] * len(judgments)


def test_plain_tune_looks_for_the_same_peak() -> None:
    assert sweep_rival.Plain(PEAK).step() == {"train/loss": 0.0, "val/accuracy": 1.0, "done": True}


def cost(seconds: float) -> bench_sweep.Cost:
    return bench_sweep.Cost(driver=1, wall=seconds, memory=10**8, cpu={1: seconds}, names={1: "python"})


@pytest.mark.parametrize(("seconds", "met"), [(10.9, True), (11.1, False)])
def test_the_goal_is_at_most_a_tenth_more_than_plain_tune(seconds: float, met: bool) -> None:
    costs = {bench_sweep.PLAIN: cost(10.0), bench_sweep.AGAIN: cost(1.0), bench_sweep.REPORT: cost(1.0)}
    goals = bench_sweep.goals({10: {bench_sweep.RUN: cost(seconds), **costs}})
    assert all(holds for holds, _ in goals) == met
