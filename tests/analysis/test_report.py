"""The report of a store: its files, its terminal output, damaged stores, and its cost."""

import csv
import io
import json
import subprocess
import sys

import pytest
from helpers import drawn
from helpers.ledgers import STANDARD, STUDY, accuracies, record, store_with, train
from rich.console import Console

from analysis.figures.draw import FIGURES
from analysis.report import build, print_summary, print_tables
from tune_interpreg.store.files import StoreError, with_checksum
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Judge
from tune_interpreg.study.parameters import resolve_study

pytestmark = pytest.mark.thorough

FILES = ["tables.md", "tables.tex", "tables.csv", "tables.json", "rows.json"]


def params(arm, **own):
    """The parameters of an arm's training, with the defaults that a store's study has."""
    return resolve_study(STUDY).arms[arm].params | own


@pytest.fixture
def store(tmp_path):
    return store_with(tmp_path / "store", STANDARD[:2])


def test_an_empty_store_says_so(tmp_path):
    report = build(store_with(tmp_path / "store", []).path)
    assert report.status[0] == "0 of 20 repeats done, 20 absent."
    assert "ledger is empty" in report.status[1]
    assert json.loads(report.paths[4].read_text(encoding="utf-8"))["rows"] == []


def test_all_files_have_the_same_tables_and_numbers(tmp_path):
    repeats = [record(train("adversarial", seed, params("adversarial")), accuracies(0.9)) for seed in STUDY.seeds]
    report = build(store_with(tmp_path / "store", [*STANDARD, *repeats]).path)
    assert [path.name for path in report.paths] == FILES
    markdown, tex, cells, tables, values = (path.read_text(encoding="utf-8") for path in report.paths)
    cells, content, values = list(csv.DictReader(io.StringIO(cells))), json.loads(tables), json.loads(values)
    assert content["answer"] == list(report.answer)
    assert [table["title"] for table in content["tables"]] == [table.title for table in report.tables]
    assert tex.count("\\begin{table}") == len(report.tables)
    for table in content["tables"]:
        assert f"## {table['title']}" in markdown
        texts = [cell["text"] for row in table["rows"] for cell in row[1:]]
        assert [cell["text"] for cell in cells if cell["table"] == table["title"]] == texts
    assert all(line in markdown for line in report.answer)
    clean = next(cell for cell in cells if (cell["row"], cell["column"]) == ("Std. Training", "Std. Acc."))
    assert (float(clean["mean"]), clean["n"]) == (pytest.approx(99.2), "5")
    assert Study.model_validate(values["study"]) == resolve_study(STUDY)
    first = {name: values["rows"][0][name] for name in ("arm", "seed", "metric", "value", "images")}
    assert first == {"arm": "standard", "seed": 0, "metric": "test/accuracy", "value": 0.99, "images": 10_000}
    assert values["missing"][0] == {"arm": "interp_robust", "seed": 0, "state": "absent", "error": None}


def test_troubles_are_in_the_status(store):
    lost = train("jacobian", 0, params("jacobian", lambda_j=0.1), number=0)
    (failed,) = record(lost, state="failed", error="no model")
    store.write_record(failed)
    store.write_text(store.choice_file("standard"), "{")
    counts, choice, trouble = build(store.path).status
    assert counts == "2 of 20 repeats done, 18 absent."
    assert f"Left out: {store.choice_file('standard')}" in choice
    assert trouble == "jacobian: 1 trial failed: no model"


def test_the_same_ledger_makes_the_same_files_and_pictures_on_request_only(tmp_path):
    store = drawn.store_at(tmp_path / "store")
    build(store.path)
    assert sorted(path.name for path in store.report_dir.iterdir()) == sorted(FILES)
    texts = []
    for _ in range(2):
        assert build(store.path, pictures=True).paths[-1] == store.report_dir / "index.html"
        texts.append({path: path.read_bytes() for path in store.report_dir.rglob("*.*")})
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(FILES) + 1 + 2 * (len(FIGURES) - 1), "the study asks for no interpretability"


# -------------------------------------------------------------------------- bad input
def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no store"):
        build(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace("2026", "2027")])
def test_a_damaged_record_is_named_and_left_out(store, damage):
    path = store.record_file("standard", STANDARD[1][0]["key"])
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    report = build(store.path)
    assert report.status[0] == "1 of 20 repeats done, 19 absent."
    assert report.status[1].startswith(f"Left out: {path}: is damaged")
    assert any(note.startswith(f"standard: left out: {path}") for note in report.tables[0].notes)


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
    text = printed(print_tables, store)
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


def test_the_summary_explains_the_interval_of_a_single_seed(tmp_path, store):
    single = store_with(tmp_path / "single", STANDARD[:1])
    assert "[low, high]" in printed(print_summary, single)
    assert "[low, high]" not in printed(print_summary, store)


@pytest.mark.slow
@pytest.mark.long
def test_five_thousand_records_take_seconds_and_little_memory(tmp_path):
    """Each with the curves of 30 epochs. Processor time, because other work may share the machine."""
    search = {"space": {"lambda_j": {"log_uniform": [0.001, 1]}}, "maximize": "val/adv_accuracy", "trials": 5000}
    arms = STUDY.model_dump()["arms"] | {"jacobian": {"method": "jacobian", "search": search}}
    store = store_with(tmp_path, STANDARD[:1], Study.model_validate(STUDY.model_dump() | {"arms": arms}))
    curve = [dict.fromkeys(("train/loss", "train/ce", "val/accuracy"), epoch / 7) for epoch in range(30)]
    trial, judged = record(
        train("jacobian", 0, params("jacobian", lambda_j=0.1), number=0), {"train/loss": 1.0, "val/accuracy": 0.9}
    )
    folder = store.record_file("jacobian", "key").parent
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(5000):
        key = f"{number:016x}"
        (item,) = (Judge.model_validate({name: judged[name] for name in Judge.model_fields} | {"model": key}),)
        for content in (
            trial | {"key": key, "number": number, "curve": curve},
            judged | {"key": item.key, "model": key},
        ):
            (folder / f"{content['key']}.json").write_text(json.dumps(with_checksum(content)), encoding="utf-8")
    code = f"import time; from analysis.report import build; build({str(tmp_path)!r}); print(time.process_time())\n"
    code += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 6
    assert kilobytes < 2**20
