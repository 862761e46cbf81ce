"""The report of a store: empty, under way, and what importing it costs."""

import csv
import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from analysis.report import build, print_report, print_tables
from tune_interpreg.config import Study
from tune_interpreg.items import Item, Recipe
from tune_interpreg.store import Store, StoreError

STUDY = Study(
    name="pair",
    seeds=(0, 1, 2),
    arms={"standard": {"method": "standard"}, "adversarial": {"method": "adversarial"}},
)


def record(arm, seed, state="done", error=None, role="repeat"):
    work = Item(arm=arm, role=role, recipe=Recipe.of(STUDY, method=arm), seeds=(seed,))
    metrics = {"test/accuracy": 0.9 + seed / 100, "grad_norm/label": 2.0}
    return {
        "format": 1,
        "key": work.key,
        "recipe_key": work.recipe.key,
        **work.model_dump(mode="json"),
        "state": state,
        "metrics": {str(seed): metrics} if state == "done" else {},
        "counts": {"train": 1197, "val": 240, "test": 360, "grad_norm": 1197},
        "error": error,
        "device": "cpu",
        "finished": "2026-01-01T00:00:00+00:00",
    }


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.save_study(STUDY)
    return store


def test_an_empty_store_says_so(store):
    report = build(store.path, STUDY)
    assert report.status == ("0 of 6 repeats done, 6 absent.", "The ledger is empty: nothing has finished yet.")
    assert "The ledger is empty" in (store.report_dir / "tables.md").read_text(encoding="utf-8")
    assert json.loads((store.report_dir / "rows.json").read_text(encoding="utf-8"))["rows"] == []


def test_a_study_under_way_is_reported_with_what_it_lacks(store):
    store.write_record(record("standard", 0))
    store.write_record(record("standard", 1, "failed", "OSError: [disk] full"))
    store.write_record(record("adversarial", 0, "failed", "no maps", role="targets"))
    report = build(store.path)
    assert report.status == ("1 of 6 repeats done, 1 failed, 4 absent.", "adversarial: 1 targets failed: no maps")
    text = (store.report_dir / "tables.md").read_text(encoding="utf-8")
    assert "90.00 (n=1)" in text
    assert "standard: seed 1 failed: OSError: [disk] full." in text


def test_the_files_agree_with_the_tables(store):
    for seed in STUDY.seeds:
        store.write_record(record("standard", seed))
    report = build(store.path)
    assert [path.name for path in report.paths] == ["tables.md", "tables.csv", "rows.json"]
    cells = list(csv.DictReader(io.StringIO(report.paths[1].read_text(encoding="utf-8"))))
    clean = next(cell for cell in cells if (cell["row"], cell["column"]) == ("Std. Training", "Std. Acc."))
    assert (float(clean["mean"]), clean["n"]) == (pytest.approx(91.0), "3")
    content = json.loads(report.paths[2].read_text(encoding="utf-8"))
    assert Study.model_validate(content["study"]) == STUDY
    assert content["rows"][0] | {"key": "", "recipe_key": ""} == {
        "arm": "standard", "seed": 0, "metric": "test/accuracy", "value": 0.9, "key": "", "recipe_key": "",
    }  # fmt: skip
    assert content["missing"][0] == {"arm": "adversarial", "seed": 0, "state": "absent", "error": None}


def test_only_tables_with_rows_are_shown(store):
    assert [table.title for table in build(store.path).tables] == [
        "Table 1. Accuracy on digits, %",
        "Table 3. Mean gradient norms on digits",
    ]


def test_the_report_is_the_same_when_nothing_new_finished(store):
    store.write_record(record("standard", 0))
    texts = [[path.read_bytes() for path in build(store.path).paths] for _ in range(2)]
    assert texts[0] == texts[1]
    assert sorted(path.name for path in store.report_dir.iterdir()) == ["rows.json", "tables.csv", "tables.md"]


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no store"):
        build(tmp_path)


def test_the_print_shows_status_tables_and_paths(store):
    store.write_record(record("standard", 0))
    console = Console(width=120)
    with console.capture() as shown:
        print_report(build(store.path), console)
        print_tables(store.path, STUDY, console)
    assert shown.get().count("1 of 6 repeats done, 5 absent.") == 2
    assert "Std. Training" in shown.get()
    assert str(store.report_dir / "tables.md") in shown.get()


def test_reporting_loads_neither_torch_nor_ray():
    code = "import sys, analysis.report; print([m for m in ('torch', 'ray', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
