"""A study runs through several runs of Tune, one after another, as through one."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.in_process import TEACHER

from tune_interpreg.store.store import Store

SEEDS = 3
CODE = """
from tune_interpreg.cluster import drain
from tune_interpreg.cli import main

drain.TRIALS_PER_TURN, drain.TRIALS_PER_SLOT, make = 2, 0, drain._make_tuner
drain._make_tuner = lambda *of: print("a run of Tune") or make(*of)
main()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_turns_of_two_trials_finish_a_study(tmp_path: Path) -> None:
    study, store = tmp_path / "small.yaml", Store(tmp_path / "store")
    study.write_text(TEACHER.replace("[0]", str(list(range(SEEDS)))))
    command = [sys.executable, "-c", CODE, "run", str(study), "--store", str(store.path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("a run of Tune") == 2
    trained = [record["seed"] for record in store.records() if record["kind"] == "train"]
    assert trained == list(range(SEEDS))
    assert not store.tune_dir.exists()
