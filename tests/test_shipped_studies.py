"""The shipped studies, run as a user runs them."""

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ARMS = ("standard", "adversarial", "interp_robust", "interp_permuted", "interp_nonrobust", "jacobian")


def run(folder: Path, *arguments: str, command: str = "run") -> str:
    words = [sys.executable, "-m", "tune_interpreg", command, *arguments, "--store", "store"]
    ran = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def means(folder: Path, column: str) -> dict[str, float]:
    """Return row → mean of a column in Table 1 to 3, in the table's unit."""
    with (folder / "store" / "report" / "tables.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["table"].startswith("Table ")]
    return {line["row"]: float(line["mean"]) for line in lines if line["column"] == column}


@pytest.mark.alone
@pytest.mark.timeout(3600)
def test_the_digits_study_is_complete_fast_and_separates_the_methods(tmp_path: Path) -> None:
    """Six arms, five seeds, at most 6 minutes and about as long as planned.

    The attack is neither too weak nor too strong for the standard model.
    """
    planned = re.search(r"time +at most (?:(\d+) min )?([\d.]+) s on", run(tmp_path, "digits", command="plan"))
    assert planned
    started = time.monotonic()
    printed = run(tmp_path, "digits")
    seconds = time.monotonic() - started
    assert seconds < 360
    assert 0.6 < (60 * int(planned[1] or 0) + float(planned[2])) / seconds < 1.7
    assert "30 of 30 repeats done" in printed
    strict = means(tmp_path, "Adv. Acc. (strict)")
    assert len(strict) == len(ARMS)
    assert 20 <= strict["Std. Training"] <= 70
    assert strict["Adv. Training"] > strict["Interp. Reg. R."] > strict["Std. Training"]
    norms = means(tmp_path, "‖∇f_c‖ label")
    assert norms["Interp. Reg. R."] < norms["Std. Training"] / 2


@pytest.mark.timeout(1200)
@pytest.mark.skipif("TUNE_INTERPREG_DATA" not in os.environ, reason="TUNE_INTERPREG_DATA names no folder with MNIST")
def test_the_mnist_study_runs_on_few_images(tmp_path: Path) -> None:
    """mnist-small with fewer images, seeds, steps and trials: every arm, on real images."""
    smaller = (
        "data.train_limit=160 data.validation=60 data.test_limit=30 training.epochs=1 seeds=[0,1] evaluation.steps=10"
        " evaluation.checks=null evaluation.gradient_norms.images=30 evaluation.interpretability.images=15"
        " arms.interp_robust.targets.samples=5 arms.interp_permuted.targets.samples=5"
        " arms.interp_nonrobust.targets.samples=5 arms.interp_robust.search.trials=2"
        " arms.interp_permuted.search.trials=2 arms.interp_nonrobust.search.trials=2 arms.jacobian.search.trials=2"
    )
    overrides = [word for setting in smaller.split() for word in ("--set", setting)]
    printed = run(tmp_path, "mnist-small", "--data-root", os.environ["TUNE_INTERPREG_DATA"], *overrides)
    assert "12 of 12 repeats done" in printed
    assert len(means(tmp_path, "Adv. Acc. (strict)")) == len(ARMS)
    assert "99.38" in (tmp_path / "store" / "report" / "tables.md").read_text(encoding="utf-8"), "the paper's number"
