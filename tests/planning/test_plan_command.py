"""`plan` as a user runs it: the tree, the times and the money, what it refuses, and whether it is right."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from helpers.closed_form import steps
from helpers.measured import TINY, made, needed, tiny
from typer.testing import CliRunner

from tune_interpreg.cli import app
from tune_interpreg.data.dataset import load_dataset
from tune_interpreg.planning import costs
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Store
from tune_interpreg.study.file import read as study_file


def told(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a study and a measurement of it, whose times are round."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    made(study_file.load("tiny.yaml")).save(tmp_path / "here.json")
    return tmp_path


def test_a_plan_shows_the_tree_and_what_it_takes(folder: Path) -> None:
    shown = told("plan", "tiny.yaml", "--costs", "here.json", "--cluster", "in-process", "--workers", "1")
    assert shown.exit_code == 0, shown.output
    text = re.sub(r"[│├└─]", "", shown.stdout)
    for line in (
        "tiny: 0 of 18 parts are in",
        "robust: interpretation, maps of standard",
        "matched: jacobian, loss of robust",
        "search   2 trials; 2 × 7.5 s = 15.0 s",
        "maps     1 set; 1 × 40.0 s = 40.0 s",
        "checks   2 models; 2 × 7.0 s = 14.0 s",
    ):
        assert line in text
    assert 6 * 17.5 + 2 * 7.5 + 3 * 4.5 + 40 + 6 * 7 == 3 * 60 + 35.5
    assert "time         at most 3 min 38 s on 1 worker: 3 min 36 s of work in 18 items" in text
    assert sorted(path.name for path in folder.iterdir()) == ["here.json", "tiny.yaml"]


@pytest.mark.parametrize(
    ("named", "workers", "whence"),
    [
        ((), 2, "as many as here.json was measured with; --workers or --cluster says otherwise"),
        (("--cluster", "in-process"), 1, "as many as --cluster in-process has room for"),
        (("--cluster", "in-process", "--workers", "3"), 3, "as --workers says"),
    ],
)
def test_what_is_named_says_how_many_run_at_once_before_what_was_measured(
    folder: Path, named: tuple[str, ...], workers: int, whence: str
) -> None:
    text = told("plan", "tiny.yaml", "--costs", "here.json", *named).stdout
    assert f"\nworkers      {workers}, {whence}\n" in text
    assert f" on {workers} worker" in text


@pytest.mark.parametrize("workers", [1, 4])
def test_money_is_the_price_of_all_that_is_held_while_it_runs(folder: Path, workers: int) -> None:
    gpu = "resources.gpus=0.5"
    made(study_file.load("tiny.yaml", [gpu])).save(folder / "gpu.json")
    asked = ("--set", gpu, "--costs", "gpu.json", "--workers", str(workers), "--dollars-per-gpu-hour", "3600000")
    text = told("plan", "tiny.yaml", *asked).stdout
    hours, dollars = re.search(r"GPU-hours +([\d.e-]+), as long as", text), re.search(r"money +\$([\d,.]+) for", text)
    assert hours
    assert dollars
    assert float(dollars[1].replace(",", "")) == pytest.approx(float(hours[1]) * 3.6e6, rel=0.01)
    assert f"for {workers * 0.5:g} GPUs at $3.6e+06 an hour" in text
    assert f"and {workers * 2:g} GB of GPUs" in text


def test_a_finished_study_has_nothing_left(folder: Path) -> None:
    of, store = study_file.load("tiny.yaml", ["checks=null"]), Store("runs/tiny")
    assert list(steps(Dispatcher(of, store, load_dataset(of.data).fingerprint)))
    store.save_study(of)
    shown = told("plan", "tiny.yaml", "--set", "checks=null")
    assert shown.stdout.splitlines()[-1] == "nothing is left to run"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "error: nowhere: no such file: give a YAML file, or the name of a shipped study"),
        (("tiny.yaml", "--costs", "none.json"), "none.json: no such file; `plan STUDY --save none.json` writes one"),
        (
            ("tiny.yaml", "--costs", "here.json", "--set", "arms.matched.norm=sample"),
            "here.json: holds no times of jacobian under this study's setting; measure this study there, with",
        ),
        (("tiny.yaml", "--set", "resources.cpus=1000"), "a trial asks for 1000 CPUs and 0 GPUs, but no node has them"),
        (("tiny.yaml", "--costs", "here.json", "--save", "tiny.yaml/x"), "tiny.yaml/x: cannot be written"),
        (("tiny.yaml", "--set", "data.train_limit=9999"), "data.train_limit: 1,413 images are left"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    shown = told("plan", *arguments)
    assert shown.exit_code == 2
    assert said in re.sub(r"\s+", " ", shown.stderr)
    assert "Traceback" not in shown.output


# --------------------------------------------------------------------------- and in truth
@pytest.mark.slow
def test_every_piece_of_a_study_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a study so small that each is done whole; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    shown = told("plan", "tiny.yaml", "--save", "here.json", "--workers", "1")
    assert shown.exit_code == 0, shown.output
    known = costs.read(tmp_path / "here.json")
    assert known.pieces.keys() == needed(tiny()).keys()
    assert all(0 < seconds < 10 for piece in known.pieces.values() for seconds in piece.values())
    assert known.processes["memory"] > 1e8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.json", "tiny.yaml"]


@pytest.mark.slow
def test_a_small_study_takes_about_as_long_as_planned(tmp_path: Path) -> None:
    """Within half and twice the time; on a machine with nothing else to do it is a quarter."""
    smaller = ("--set", "training.epochs=4", "--set", "seeds=[0, 1]", "--set", "checks.images=40")
    planned = command(tmp_path, "plan", "digits", *smaller)
    told = re.search(r"time +at most (?:(\d+) min )?([\d.]+) s on", planned)
    assert told
    started = time.monotonic()
    command(tmp_path, "run", "digits", *smaller)
    took = time.monotonic() - started
    assert 0.5 < (60 * int(told[1] or 0) + float(told[2])) / took < 2.0


def command(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "tune_interpreg", *arguments], cwd=folder, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
