"""Check `plan` from the command line: the tree, time and money, and what it refuses."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from helpers.cli import output, refusal
from helpers.closed_form import steps
from helpers.measured import TINY, round_measurement

from tune_interpreg.data.dataset import load_and_check
from tune_interpreg.planning import forecast
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.read import read_study_file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a study. Its measurement has round numbers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    monkeypatch.setattr(forecast, "measure", round_measurement)
    return tmp_path


def test_a_plan_shows_the_tree_and_its_cost(folder: Path) -> None:
    text = re.sub(r"[│├└─]", "", output("plan", "tiny.yaml", "--cluster", "in-process"))
    for line in (
        "tiny: 0 of 18 parts settled",
        "robust: interpretation, maps of standard",
        "matched: jacobian, loss of robust",
        "search    2 trials; 2 × 6.4 s = 12.8 s",
        "maps      1 set; 1 × 32.0 s = 32.0 s",
        "judgments 2 models; 2 × 7.0 s = 14.0 s",
    ):
        assert line in text
    # A trial of robust is the repeat of seed 0; 3.84 s of judgments are left for it.
    work = 5 * 10.26 + 2 * 6.42 + 3 * 4.98 + 32 + 3.84 + 6 * 7
    assert f"time         at most 2 min {work + 3 - 120:.0f} s on 1 worker: 2 min {work - 120:.0f} s of work" in text
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.yaml"]


def test_the_store_is_named_exactly(folder: Path) -> None:
    text = output("plan", "tiny.yaml", "--cluster", "in-process", "--store", f"exp[lr=0.1] {'x' * 150}")
    (line,) = [line for line in text.splitlines() if line.startswith("store ")]
    assert shlex.split(line)[1] == str(folder / f"exp[lr=0.1] {'x' * 150}")


@pytest.mark.parametrize("workers", [1, 4])
def test_money_is_the_price_of_all_workers_for_the_whole_time(folder: Path, workers: int) -> None:
    options = ("--set", "resources.gpus=0.5", "--workers", str(workers), "--dollars-per-gpu-hour", "3600000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "count_slots", lambda *_: 8)
        text = output("plan", "tiny.yaml", *options)
    assert f"workers      {workers}, from --workers" in text
    hours, dollars = re.search(r"GPU-hours +([\d.e-]+),", text), re.search(r"money +\$([\d,.]+) for", text)
    assert hours
    assert dollars
    assert float(dollars[1].replace(",", "")) == pytest.approx(float(hours[1]) * 3.6e6, rel=0.01)
    assert f"for {workers * 0.5:g} GPUs at $3.6e+06 per hour" in text
    assert f"and {workers * 2}.0 GB on GPUs" in text


@pytest.mark.parametrize(("load", "warns"), [(0.1, False), (1.3, True)])
def test_a_measurement_under_load_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, load: float, warns: bool
) -> None:
    monkeypatch.setattr(forecast, "measure", partial(round_measurement, load=load))
    text = output("plan", "tiny.yaml", "--cluster", "in-process")
    assert f"load of other processes {load}" in text
    assert ("measured under load" in text) == warns


def test_a_finished_study_has_nothing_left(folder: Path) -> None:
    study, store = read_study_file("tiny.yaml", ["checks=null"]).study, Store("runs/tiny")
    assert list(steps(Dispatcher(study, store, load_and_check(study.data).fingerprint)))
    store.save_study(study)
    assert output("plan", "tiny.yaml", "--set", "checks=null").splitlines()[-1] == "nothing is left to run"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nowhere",), "nowhere: "),
        (("tiny.yaml", "--set", "resources.cpus=1000"), "1000 CPUs"),
        (("tiny.yaml", "--set", "data.train_limit=9999"), "data.train_limit: 1,413"),
        (("tiny.yaml", "--cluster", "nowhere"), "HOST:PORT"),
    ],
)
def test_a_study_that_cannot_be_planned_is_refused(folder: Path, arguments: tuple[str, ...], named: str) -> None:
    assert named in refusal("plan", *arguments)
