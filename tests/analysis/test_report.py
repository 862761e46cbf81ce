"""The report of a store: its files, its terminal output, damaged stores, and its cost."""

import csv
import io
import json
import subprocess
import sys

import pytest
from helpers import drawn
from rich.console import Console

from analysis.report import build, print_summary, print_tables
from tune_interpreg.store.files import StoreError, with_checksum
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.recipe import FORMAT, CheckedModel, Recipe

FILES = ["tables.md", "tables.tex", "tables.csv", "tables.json", "rows.json"]

STUDY = Study(
    name="pair",
    seeds=(0, 1, 2),
    arms={"standard": {"method": "standard"}, "adversarial": {"method": "adversarial"}},
)


def record(arm, seed, state="done", error=None, role="repeat"):
    work = Item(arm=arm, role=role, recipe=Recipe.from_study(STUDY, method=arm), seeds=(seed,))
    metrics = {"test/accuracy": 0.9 + seed / 100, "grad_norm/label": 2.0}
    return {
        "format": FORMAT,
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


CHECKS = Recipe.from_study(
    STUDY, method="checks", checked=CheckedModel(model=record("standard", 0)["key"], seed=0, images=100)
)


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


def test_the_report_of_an_unfinished_study_has_what_is_missing(store):
    store.write_record(record("standard", 0))
    store.write_record(record("standard", 1, "failed", "OSError: [disk] full"))
    work = Item(arm="standard", role="checks", recipe=CHECKS, seeds=(0,))
    store.write_record(record("standard", 0, "failed", "no model") | {"key": work.key} | work.model_dump(mode="json"))
    report = build(store.path)
    assert report.status == ("1 of 6 repeats done, 1 failed, 4 absent.", "standard: 1 checks failed: no model")
    text = (store.report_dir / "tables.md").read_text(encoding="utf-8")
    assert "90.00 [86.47, 92.69] (n=1)" in text
    assert "standard: seed 1 failed: OSError: [disk] full." in text


def test_the_files_agree_with_the_tables(store):
    for seed in STUDY.seeds:
        store.write_record(record("standard", seed))
    report = build(store.path)
    assert [path.name for path in report.paths] == FILES
    cells = list(csv.DictReader(io.StringIO(report.paths[2].read_text(encoding="utf-8"))))
    clean = next(cell for cell in cells if (cell["row"], cell["column"]) == ("Std. Training", "Std. Acc."))
    assert (float(clean["mean"]), clean["n"]) == (pytest.approx(91.0), "3")
    content = json.loads(report.paths[4].read_text(encoding="utf-8"))
    assert Study.model_validate(content["study"]) == resolve_study(STUDY)
    assert content["rows"][0] | {"key": "", "recipe_key": ""} == {
        "arm": "standard", "seed": 0, "metric": "test/accuracy", "value": 0.9, "images": 360,
        "key": "", "recipe_key": "",
    }  # fmt: skip
    assert content["missing"][0] == {"arm": "adversarial", "seed": 0, "state": "absent", "error": None}


def test_only_tables_with_rows_are_in_the_report(store):
    sections = [table.section for table in build(store.path).tables]
    assert sections == ["results", "gradients", "answer", "comparisons", "comparisons", "comparisons"]


def test_the_report_is_the_same_when_nothing_new_finished(store):
    store.write_record(record("standard", 0))
    texts = [[path.read_bytes() for path in build(store.path).paths] for _ in range(2)]
    assert texts[0] == texts[1]
    assert sorted(path.name for path in store.report_dir.iterdir()) == sorted(FILES)


def test_every_file_holds_the_same_tables_and_the_answer(store):
    for seed in STUDY.seeds:
        store.write_record(record("standard", seed))
        store.write_record(record("adversarial", seed))
    report = build(store.path)
    assert report.answer[1].startswith("Adv. Training: no seed has results")
    markdown, tex, cells, content, _ = (path.read_text(encoding="utf-8") for path in report.paths)
    tables = json.loads(content)["tables"]
    assert [table["title"] for table in tables] == [table.title for table in report.tables]
    assert json.loads(content)["answer"] == list(report.answer)
    assert tex.count("\\begin{table}") == len(tables)
    for table in tables:
        assert f"## {table['title']}" in markdown
        of_table = [cell for cell in csv.DictReader(io.StringIO(cells)) if cell["table"] == table["title"]]
        texts = [cell["text"] for row in table["rows"] for cell in row[1:]]
        assert [cell["text"] for cell in of_table] == texts
    assert all(line in markdown for line in report.answer)


def test_pictures_are_made_on_request_only(store):
    store.write_record(record("standard", 0))
    build(store.path)
    assert not (store.report_dir / "index.html").exists()
    assert (store.report_dir / "index.html") in build(store.path, pictures=True).paths
    assert "Std. Training" in (store.report_dir / "index.html").read_text(encoding="utf-8")


# -------------------------------------------------------------------------- bad input
def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no store"):
        build(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"thesis.tex: is no store"):
        build(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_whose_study_is_damaged_is_named(store):
    store.study_file.write_text("arms: [")
    with pytest.raises(StoreError, match=r"study.yaml: cannot be read as a study"):
        build(store.path)


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace("0.91", "0.99")])
def test_a_damaged_record_is_named_and_left_out(store, damage):
    for seed in (0, 1):
        store.write_record(record("standard", seed))
    path = store.record_file("standard", record("standard", 1)["key"])
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    report = build(store.path)
    assert report.status[0] == "1 of 6 repeats done, 5 absent."
    assert report.status[1].startswith(f"Left out: {path}: is damaged")
    assert any(note.startswith(f"standard: left out: {path}") for note in report.tables[0].notes)
    assert "standard: seeds 1, 2 not in the ledger yet." in report.tables[0].notes


def test_a_damaged_choice_is_named_and_left_out(store):
    store.write_text(store.choice_file("standard"), "{")
    assert any(f"Left out: {store.choice_file('standard')}" in line for line in build(store.path).status)


def test_a_report_that_cannot_be_written_raises_a_store_error(store):
    store.report_dir.write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"report: cannot be written \(.*\); make it writable"):
        build(store.path)


# ------------------------------------------------------------------------ the terminal
def printed(function, store, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        function(store.path, console=console)
    return capture.get()


def test_print_tables_shows_status_short_tables_and_paths(store):
    store.write_record(record("standard", 0))
    text = printed(print_tables, store)
    assert text.startswith("1 of 6 repeats done, 5 absent.")
    assert "Table 1." in text
    assert str(store.report_dir / "tables.md") in text
    assert "Pair" not in text, "tables of all pairs are too long for a terminal"
    assert "In the files only: All pairs" in text


def test_the_summary_fits_one_screen(tmp_path):
    """80 columns × 50 lines, for a study with searches, a match and warnings; five lines are left for the command."""
    store = drawn.store_at(tmp_path / "store")
    lines = printed(print_summary, store).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    assert any("PASS" in line for line in lines)
    assert sum(line.startswith("WARN") for line in lines) == 1


def test_the_report_loads_neither_torch_nor_ray():
    code = "import sys, analysis.report; print([m for m in ('torch', 'ray', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_five_thousand_records_take_seconds_and_little_memory(tmp_path):
    """Each with the curves of 30 epochs. Processor time, because other work may share the machine."""
    search = {"space": {"lambda_j": {"log_uniform": [0.001, 1]}}, "maximize": "val/adv_accuracy", "trials": 5000}
    arms = STUDY.arms | {"jacobian": {"method": "jacobian", "search": search}}
    store = Store(tmp_path)
    store.save_study(Study(name="many", seeds=STUDY.seeds, arms=arms))
    curve = [dict.fromkeys(("train/loss", "train/ce", "val/accuracy"), epoch / 7) for epoch in range(30)]
    for number in range(5000):
        own = {"key": f"{number:016x}", "number": number, "curves": {"0": curve}, "versions": {}, "files": {}}
        work = record("jacobian", 0, role="search") | own
        work["recipe"]["params"]["lambda_j"] = 0.1
        path = store.record_file("jacobian", work["key"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(with_checksum(work)), encoding="utf-8")
    store.write_record(record("standard", 0))
    code = (  # getrusage reports the parent process if that is larger
        f"import re, time\nfrom analysis.report import build\nbuild({str(tmp_path)!r})\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())\n"
        "print(time.process_time(), int(peak[1]) / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, gigabytes = map(float, done.stdout.split())
    assert seconds < 6
    assert gigabytes < 1
