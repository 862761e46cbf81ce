"""The results of a study as a DataFrame for notebooks."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.ledgers import STANDARD, STUDY, flat, record, store_with, train

import tune_interpreg
from analysis.results import frame
from tune_interpreg.store.files import StoreError

README = Path(__file__).parents[2] / "README.md"


def test_there_is_a_row_for_each_arm_seed_and_metric(tmp_path):
    table = tune_interpreg.results(store_with(tmp_path / "store", STANDARD).path)
    assert tuple(table.columns) == frame.COLUMNS
    done = table[table.state == "done"]
    assert len(done) == 5 * 3
    first = done[(done.seed == 0) & (done.metric == "test/accuracy")].iloc[0]
    assert (first.arm, first.title, first.method) == ("standard", "Std. Training", "standard")
    assert (first.value, first.images, first.device, first.seconds) == (0.99, 10_000, "cpu", 12.5)
    assert (first.key, first.recipe_key) == (STANDARD[0][0]["key"], STANDARD[0][0]["recipe_key"])
    assert first.finished == pd.Timestamp("2026-01-01", tz="UTC")


def test_a_missing_seed_is_a_row_without_a_value(tmp_path):
    failed = record(train("standard", 4), state="failed", error="out of memory")
    table = frame.results(str(store_with(tmp_path / "store", [*STANDARD[:4], failed]).path))
    missing = table[table.state != "done"]
    assert len(missing) == 1 + 3 * 5
    lost = missing[missing.arm == "standard"].iloc[0]
    assert (lost.seed, lost.state, lost.metric, lost.images) == (4, "failed", "", 0)
    assert missing.value.isna().all()
    strict = table[table.metric == "test/adv_accuracy_strict"]
    assert strict.groupby("title").value.count().to_dict() == {"Std. Training": 4}


def test_arms_that_share_a_recipe_have_their_own_seconds(tmp_path):
    arms = STUDY.arms | {"again": STUDY.arms["standard"]}
    twins = [content | {"arm": "again", "seconds": 0.0} for content in flat(STANDARD) if content["kind"] == "train"]
    study = STUDY.model_copy(update={"arms": arms})
    table = frame.results(store_with(tmp_path / "store", [*STANDARD, *twins], study).path)
    assert table.groupby("arm").seconds.max().dropna().to_dict() == {"again": 0.0, "standard": 12.5}


def test_an_empty_store_has_its_missing_seeds_and_the_same_types(tmp_path):
    empty, full = (
        frame.results(store_with(tmp_path / name, ledger).path) for name, ledger in (("a", []), ("b", STANDARD))
    )
    assert (empty.dtypes == full.dtypes).all()
    assert set(empty.state) == {"absent"}


def test_nothing_is_written_and_other_folders_are_refused(tmp_path):
    store = store_with(tmp_path / "store", STANDARD)
    before = sorted(store.path.rglob("*"))
    frame.results(store.path)
    assert sorted(store.path.rglob("*")) == before
    with pytest.raises(StoreError, match="nowhere: is no store"):
        frame.results(tmp_path / "nowhere")


def test_the_package_loads_no_library_and_reports_neither_pyplot_nor_torch():
    code = (
        "import sys, tune_interpreg; print(*{'pandas', 'numpy', 'torch', 'rich'} & set(sys.modules))\n"
        "import analysis.figures, analysis.report; print(*{'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_readmes_example_runs(tmp_path, monkeypatch, capsys):
    store_with(tmp_path / "runs" / "digits", STANDARD)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python notebook.py\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(code, {})
    shown = capsys.readouterr().out
    assert "Std. Training" in shown
    assert "0.5" in shown
