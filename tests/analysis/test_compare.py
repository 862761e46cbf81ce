"""Several stores in one table: names, pairs, what is refused and why, files."""

import csv
import json

import pytest
from helpers import drawn, ledgers
from helpers.cli import output, refusal
from helpers.ledgers import row_of, store_with

from analysis.compare import compare
from analysis.results.stores import read_stores
from analysis.statistics.intervals import student_t
from analysis.tables.by_store import accuracy_table, difference_table
from tune_interpreg.store.files import StoreError
from tune_interpreg.study.config import Study


def study(name="wide", arms=None, seeds=(0, 1, 2), **sections):
    arms = arms or {"standard": {"method": "standard"}, "only_here": {"method": "adversarial", "title": "Only here"}}
    shared = {"training": {"epochs": 3}, "attack": {"eps": 0.5}} | sections
    return Study.model_validate({"name": name, "seeds": seeds, "arms": arms} | shared)


def repeats(of, clean=0.9, fingerprint=""):
    """Three seeds of each arm; the clean accuracy grows by 0.01 per seed and arm."""
    made = []
    for place, arm in enumerate(of.arms):
        for seed in of.seeds:
            job = ledgers.train(arm, seed, of=of)
            (model,) = job.models
            recipe = model.recipe.model_copy(update={"data_fingerprint": fingerprint})
            job = job.model_copy(update={"models": (model.model_copy(update={"recipe": recipe}),)})
            value = clean + 0.01 * place + 0.01 * seed
            made += ledgers.record(job, ledgers.accuracies(value, value - 0.2, value - 0.3), of=of)
    return made


@pytest.fixture
def digits(tmp_path):
    return drawn.store_at(tmp_path / "digits").path


def other(path, of=None, **fields):
    of = of or study()
    return store_with(path, repeats(of, **fields), of).path


# -------------------------------------------------------------------------------- tables
def test_each_arm_has_its_store_and_equal_titles_have_its_name(digits, tmp_path):
    stores = read_stores([digits, other(tmp_path / "wide")])
    table = accuracy_table(stores)
    assert [row[0] for row in table.rows[:2]] == ["Std. Training (digits)", "Adv. Training"]
    assert [row[:2] for row in table.rows[-2:]] == [("Std. Training (wide)", "wide"), ("Only here", "wide")]
    assert str(row_of(table, "Std. Training (wide)")["Std. Acc."]) == "91.00 ± 2.48"  # t(0.975, 2) · 1 / √3
    assert str(row_of(table, "Std. Training (digits)")["Adv. Acc. (strict)"]).startswith("40.10 ± ")


def test_differences_are_paired_by_the_seeds_that_both_have(digits, tmp_path):
    stores = read_stores([digits, other(tmp_path / "wide")])
    table = difference_table(stores)
    assert [row[0] for row in table.rows] == [
        "Std. Training (wide) − Std. Training (digits)",
        "Only here − Std. Training (digits)",
    ], "an arm without a partner of its name is compared with the first store's standard training"
    row = row_of(table, "Std. Training (wide) − Std. Training (digits)")
    expected = student_t([90 - 99.1, 91 - 99.3])
    assert row["Std. Acc."].interval.mean == pytest.approx(expected.mean)
    assert row["Std. Acc."].interval.half_width == pytest.approx(expected.half_width)
    assert row["n"] == "2"
    assert str(row["p, strict"]) != "–"


def test_an_arm_of_the_same_name_and_another_method_is_no_partner(digits, tmp_path):
    of = study(arms={"adversarial": {"method": "standard"}})
    (row,) = difference_table(read_stores([digits, other(tmp_path / "wide", of)])).rows
    assert row[0] == "adversarial − Std. Training"


def test_without_a_common_seed_there_is_no_difference(digits, tmp_path):
    row = difference_table(read_stores([digits, other(tmp_path / "wide", study(seeds=(7, 8)))])).rows[0]
    assert (str(row[1]), row[-1]) == ("–", "0")


def test_settings_of_trainings_that_differ_are_named(digits, tmp_path):
    of = study(training={"epochs": 3, "lr": 0.5}, model={"name": "digits_cnn", "width": 8})
    notes = accuracy_table(read_stores([digits, other(tmp_path / "wide", of)])).notes
    (line,) = [note for note in notes if note.startswith("Settings of the trainings that differ")]
    assert "training.lr: 0.01 (digits), 0.5 (wide)" in line
    assert "model.width: null (digits), 8 (wide)" in line
    assert "epochs" not in line


def test_a_further_attack_of_one_store_is_empty_in_the_other(digits, tmp_path):
    of = study(evaluation={"attacks": [{"norm": "linf", "eps": 0.1}]})
    table = accuracy_table(read_stores([digits, other(tmp_path / "wide", of)]))
    assert {str(row_of(table, name)["linf_0.1"]) for name in ("Adv. Training", "Only here")} == {"–"}


def test_stores_in_folders_of_one_name_are_named_by_their_paths(digits, tmp_path):
    path = other(tmp_path / "runs" / "digits")
    assert list(read_stores([digits, path])) == [str(digits), str(path)]


# ------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("sections", "place", "here", "there"),
    [
        ({"data": "mnist", "model": "mnist_cnn"}, "data.name", "mnist", "digits"),
        ({"data": {"name": "digits", "validation": 30}}, "data.validation", "30", "null"),
        ({"data": {"name": "digits", "test_limit": 10}}, "data.test_limit", "10", "null"),
        ({"attack": {"eps": 0.3}}, "attack.eps", "0.3", "0.5"),
        ({"attack": {"norm": "linf", "eps": 0.5}}, "attack.norm", "linf", "l2"),
        ({"attack": {"eps": 0.5, "start": "ball"}}, "attack.start", "ball", "sphere"),
        ({"evaluation": {"steps": 7}}, "evaluation.steps", "7", "40"),
        ({"evaluation": {"step_size": 0.1}}, "evaluation.step_size", "0.1", "0.03125"),
        ({"evaluation": {"restarts": 2}}, "evaluation.restarts", "2", "1"),
        ({"evaluation": {"batch_size": 10}}, "evaluation.batch_size", "10", "500"),
    ],
)
def test_what_numbers_depend_on_must_be_equal(sections, place, here, there, digits, tmp_path):
    path = other(tmp_path / "wide", study(**sections))
    with pytest.raises(StoreError) as refused:
        compare(digits, path)
    lines = str(refused.value).splitlines()
    assert f"wide: cannot be compared with digits: {place} is {here} here and {there} there; " in "\n".join(lines)


def test_other_images_are_refused(digits, tmp_path):
    paths = [other(tmp_path / name, fingerprint=name * 2) for name in ("ab", "cd")]
    with pytest.raises(StoreError, match=r"cd: .* with ab: the fingerprint of the images is cdcd here and abab there"):
        compare(*paths)


def test_entries_of_one_name_must_be_equal(tmp_path):
    entries = [{"name": "wide", "norm": "linf", "eps": eps} for eps in (0.1, 0.2)]
    paths = [other(tmp_path / f"s{n}", study(evaluation={"attacks": [entry]})) for n, entry in enumerate(entries)]
    with pytest.raises(StoreError, match=r"eps of wide in evaluation.attacks is 0.2 here and 0.1 there; .* run it"):
        compare(*paths)


def test_all_differences_are_named_at_once(digits, tmp_path):
    of = study(attack={"eps": 0.3}, evaluation={"restarts": 2})
    message = refusal("compare", str(digits), str(other(tmp_path / "wide", of)))
    assert message.count("cannot be compared") == 3  # the step's length follows the radius
    assert "attack.eps" in message
    assert "evaluation.restarts" in message


def test_one_store_or_the_same_twice_or_none_is_refused(digits, tmp_path):
    assert "two or more stores, got 1" in refusal("compare", str(digits))
    assert "is given twice" in refusal("compare", str(digits), f"{digits}/../digits")
    assert "is no store" in refusal("compare", str(digits), str(tmp_path))


# --------------------------------------------------------------------------------- files
def test_the_command_prints_the_tables_and_writes_only_on_request(digits, tmp_path):
    wide = other(tmp_path / "wide")
    before = sorted(tmp_path.rglob("*"))
    text = output("compare", str(digits), str(wide))
    assert sorted(tmp_path.rglob("*")) == before
    assert "Accuracy on digits, %" in text
    assert "Differences between stores, points" in text
    printed = output("compare", str(digits), str(wide), "--output", str(tmp_path / "out"))
    names = [f"comparison.{suffix}" for suffix in ("csv", "json", "md", "png", "svg", "tex")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert all(str(tmp_path / "out" / name) in printed for name in names)


def test_all_files_have_the_same_numbers(digits, tmp_path):
    comparison = compare(digits, other(tmp_path / "wide"), output=tmp_path / "out")
    by_suffix = {path.suffix: path for path in comparison.paths}
    cells = list(csv.DictReader(by_suffix[".csv"].read_text(encoding="utf-8").splitlines()))
    clean = next(cell for cell in cells if (cell["row"], cell["column"]) == ("Std. Training (wide)", "Std. Acc."))
    assert float(clean["mean"]) == pytest.approx(91)
    tables = json.loads(by_suffix[".json"].read_text(encoding="utf-8"))["tables"]
    assert [table["title"] for table in tables] == [table.title for table in comparison.tables]
    markdown = by_suffix[".md"].read_text(encoding="utf-8")
    assert "comparison.png" in markdown
    assert "seeds: digits 2, wide 3" in markdown
    assert by_suffix[".tex"].read_text(encoding="utf-8").count("\\begin{table}") == 2
    assert "wide" in by_suffix[".svg"].read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_refused(digits, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="file: cannot be written"):
        compare(digits, other(tmp_path / "wide"), output=tmp_path / "file")


def test_the_frame_has_the_results_of_every_store(digits, tmp_path):
    comparison = compare(digits, other(tmp_path / "wide"))
    done = comparison.frame[comparison.frame.metric == "test/accuracy"]
    assert done.groupby("store").seed.nunique().to_dict() == {"digits": 2, "wide": 3}
    assert comparison.frame.columns[0] == "store"
