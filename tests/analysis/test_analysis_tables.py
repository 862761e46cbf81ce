"""Rows and tables of hand-made ledgers: numbers by hand, gaps visible, nothing stale in a mean."""

import math

import pytest
from helpers.ledgers import CLEAN, STANDARD, STUDY, T4, accuracies, current, item, record, results, row_of
from markdown_it import MarkdownIt
from rich.console import Console

from analysis.formats.render import NUMBERS, escape, to_csv, to_json, to_markdown, to_rich
from analysis.results import rows
from analysis.statistics.intervals import Interval
from analysis.tables.accuracy import Results, accuracy_table, gradient_table
from analysis.tables.cells import Estimate, Probability, Table
from analysis.tables.settings import settings_table
from tune_interpreg.study.config import Study


# ------------------------------------------------------------------------------- rows
def test_rows_are_tidy():
    frame = rows.tabulate(current(STANDARD))
    assert tuple(frame.columns) == rows.COLUMNS
    assert len(frame) == 5 * 3
    assert rows.values(frame, "standard", "test/accuracy") == dict(enumerate(CLEAN))


def test_a_record_of_several_seeds_gives_a_row_for_each():
    together = record(item("standard", (0, 1)), {0: accuracies(0.9), 1: accuracies(0.8)})
    assert rows.values(rows.tabulate(current([together])), "standard", "test/accuracy") == {0: 0.9, 1: 0.8}


def test_only_finished_repeats_of_asked_seeds_and_arms_count():
    search = record(item("standard", (0,), role="search"), {0: accuracies(0.1)})
    failed = record(item("standard", (1,)), {1: accuracies(0.1)}, state="failed")
    unasked = record(item("standard", (7,)), {7: accuracies(0.1)})
    stranger = record(item("standard", (2,)), {2: accuracies(0.1)}) | {"arm": "removed"}
    assert rows.tabulate(current([search, failed, unasked, stranger])).empty


def test_an_empty_ledger_gives_an_empty_frame_with_its_columns():
    frame = rows.tabulate(current([]))
    assert frame.empty
    assert tuple(frame.columns) == rows.COLUMNS


def test_repeats_of_two_recipes_are_never_mixed():
    old = [record(item("jacobian", (s,), {"lambda_j": 0.1}), {s: accuracies(0.1)}, day=1) for s in range(5)]
    new = [record(item("jacobian", (0,), {"lambda_j": 0.2}), {0: accuracies(0.9)}, day=2)]
    assert rows.values(rows.tabulate(current(old + new)), "jacobian", "test/accuracy") == {0: 0.9}
    assert current(old + new).others == {"jacobian": 5}


def test_repeats_that_contradict_the_arm_are_left_out_however_new():
    good = record(item("interp_robust", (0,), {"lambda": 0.1, "phi": 1.0}), {0: accuracies(0.9)}, day=1)
    other_phi = record(item("interp_robust", (0,), {"lambda": 0.1, "phi": 2.0}), {0: accuracies(0.1)}, day=2)
    assert rows.values(rows.tabulate(current([good, other_phi])), "interp_robust", "test/accuracy") == {0: 0.9}


def test_repeats_of_a_former_teacher_are_left_out():
    teacher = item("adversarial", (0,))
    taught = item("interp_robust", (0,), {"lambda": 0.1}, teacher=teacher.key)
    orphan = item("interp_robust", (0,), {"lambda": 0.1}, teacher="0123456789abcdef")
    ledger = [
        record(teacher, {0: {}}),
        record(taught, {0: accuracies(0.9)}),
        record(orphan, {0: accuracies(0.1)}, day=2),
    ]
    assert rows.values(rows.tabulate(current(ledger)), "interp_robust", "test/accuracy") == {0: 0.9}


def test_missing_seeds_say_why():
    ledger = [
        *STANDARD[:2],
        record(item("standard", (2,)), state="failed", error="ValueError: no\ndetails"),
        record(item("standard", (3,)), state="diverged", error="loss is nan"),
    ]
    found = [gap for gap in rows.find_missing(current(ledger)) if gap.arm == "standard"]
    assert found == [
        rows.MissingSeed("standard", 2, "failed", "ValueError: no"),
        rows.MissingSeed("standard", 3, "diverged", "loss is nan"),
        rows.MissingSeed("standard", 4, "absent"),
    ]


def test_a_seed_that_failed_and_then_finished_is_not_missing():
    failed = record(item("standard", (0, 1)), state="failed", error="lost")
    assert {gap.seed for gap in rows.find_missing(current([failed, *STANDARD])) if gap.arm == "standard"} == set()


def test_troubles_before_the_repeats_are_told_once_with_their_number():
    works = [item("jacobian", (0,), {"lambda_j": x}, "search", number=n) for n, x in enumerate((0.1, 0.2))]
    lost = [record(work, state="failed", error="boom") for work in works]
    assert rows.list_troubles(current([*lost, *STANDARD])) == ["jacobian: 2 search failed: boom"]


# ----------------------------------------------------------------------------- tables
def test_table_1_by_hand():
    cells = row_of(accuracy_table(results(STANDARD)), "Std. Training")
    ours = cells["Std. Acc."]
    assert ours.interval.mean == pytest.approx(99.2)
    assert ours.interval.half_width == pytest.approx(T4 * 0.1 * math.sqrt(2.5) / math.sqrt(5))
    assert str(ours) == "99.20 ± 0.20"
    assert str(cells["Adv. Acc. (strict)"]) == "50.00 ± 0.00"


def test_table_1_has_the_paper_beside_clean_and_compat():
    cells = row_of(accuracy_table(results(STANDARD)), "Std. Training")
    assert str(cells["Std. Acc., paper"]) == "99.38 ± 0.05"
    assert str(cells["Adv. Acc. (compat), paper"]) == "61.05 ± 0.57"
    assert "Adv. Acc. (strict), paper" not in cells


def test_other_data_has_no_paper_column():
    table = accuracy_table(Results(STUDY.model_copy(update={"data": Study(arms=STUDY.arms).data}), ()))
    assert table.columns == ("Arm", "Std. Acc.", "Adv. Acc. (compat)", "Adv. Acc. (strict)")
    assert not any("paper" in note for note in table.notes)


def test_a_missing_seed_shows_in_the_cell_and_below():
    failed = record(item("standard", (4,)), state="failed", error="RuntimeError: out of memory")
    table = accuracy_table(results([*STANDARD[:4], failed]))
    assert str(row_of(table, "Std. Training")["Std. Acc."]) == "99.15 ± 0.21 (n=4)"
    assert "standard: seed 4 failed: RuntimeError: out of memory." in table.notes


@pytest.mark.parametrize("state", ["failed", "diverged", "pruned"])
def test_a_lost_seed_is_told_with_what_became_of_it(state):
    told = record(item("standard", (1,)), state=state, error="why\nTraceback")
    table = accuracy_table(results([STANDARD[0], told, *STANDARD[2:]]))
    assert str(row_of(table, "Std. Training")["Std. Acc."]).endswith("(n=4)")
    assert f"standard: seed 1 {state}: why." in table.notes


def test_a_seed_that_failed_and_was_then_repeated_counts():
    failed = record(item("standard", (1,)), state="failed", error="why", day=1)
    again = record(item("standard", (1,)), {1: accuracies(0.991)}, day=2)
    table = accuracy_table(results([STANDARD[0], failed, again, *STANDARD[2:]]))
    assert str(row_of(table, "Std. Training")["Std. Acc."]) == "99.20 ± 0.20"
    assert not any("seed 1" in note for note in table.notes)


def test_damaged_records_are_named_under_the_tables_of_their_arm():
    said = {"standard": ["ledger/standard/0123.json: is damaged"]}
    damaged = Results(STUDY, tuple(STANDARD[:4]), damaged=said)
    assert "standard: left out: ledger/standard/0123.json: is damaged." in accuracy_table(damaged).notes
    assert not any("left out" in note for note in settings_table(damaged).notes), "standard is in no row of it"


def test_a_metric_that_is_not_finite_shows_in_the_cell_and_below():
    blown = record(item("standard", (4,)), {4: accuracies(None)})
    table = accuracy_table(results([*STANDARD[:4], blown]))
    cells = row_of(table, "Std. Training")
    assert (cells["Std. Acc."].interval.n, cells["Adv. Acc. (strict)"].interval.n) == (4, 5)
    assert "standard: seed 4 without a finite test/accuracy." in table.notes


def test_one_seed_has_wilsons_interval_and_none_a_dash():
    cells = row_of(accuracy_table(results(STANDARD[:1])), "Std. Training")
    assert str(cells["Std. Acc."]) == "99.00 [98.79, 99.18] (n=1)"
    notes = accuracy_table(results(STANDARD[:1])).notes
    assert any("[low, high] of one seed's model on 10000 images: 95% interval of Wilson" in note for note in notes)
    table = accuracy_table(results([]))
    assert not any("Wilson" in note for note in table.notes)
    assert str(row_of(table, "Std. Training")["Std. Acc."]) == "–"
    assert "standard: seeds 0, 1, 2, 3, 4 not in the ledger yet." in table.notes


def test_notes_state_n_method_attack_images_and_departures():
    notes = " ".join(accuracy_table(results(STANDARD)).notes)
    assert "Student t over n = 5 seeds (0, 1, 2, 3, 4)" in notes
    assert "PGD, l2, ε = 1.5, 40 steps of 0.0938, on 10000 test images" in notes
    assert "a batch of 500, floor 1e-6" in notes
    assert "train images: 55000 (paper: 60000)" in notes
    assert "epochs: 6 (paper: not stated)" in notes
    assert "device: cpu (paper: not stated)" in notes


def test_table_3_by_hand():
    ledger = [
        record(item("standard", (s,)), {s: {"grad_norm/label": 4.0 + s, "grad_norm/other": 2.0}}) for s in range(2)
    ]
    cells = row_of(gradient_table(results(ledger)), "Std. Training")
    assert str(cells["‖∇f_c‖ label"]) == "4.50 ± 6.35 (n=2)"
    assert str(cells["‖∇f_c‖ label, paper"]) == "7.43 ± 0.04"
    assert str(cells["‖∇f_k‖ other, paper"]) == "3.93 ± 0.02"


def test_repeats_with_a_teacher_each_are_one_row():
    arms = dict(STUDY.arms)
    targets = arms["interp_robust"].targets.model_copy(update={"teachers": "per_seed"})
    arms["interp_robust"] = arms["interp_robust"].model_copy(update={"targets": targets})
    teachers = [record(item("adversarial", (seed,)), {seed: accuracies(0.9)}) for seed in range(2)]
    pupils = [
        record(
            item("interp_robust", (seed,), {"lambda": 0.1, "phi": 1.0}, teacher=one["key"], teacher_seed=seed),
            {seed: accuracies(0.9)},
        )
        for seed, one in enumerate(teachers)
    ]
    assert pupils[0]["recipe_key"] != pupils[1]["recipe_key"]
    for study, n in ((STUDY, 1), (STUDY.model_copy(update={"arms": arms}), 2)):
        row = row_of(accuracy_table(Results(study, (*teachers, *pupils))), "Interp. Reg. R.")
        assert row["Std. Acc."].interval.n == n


def test_what_the_evaluation_adds_is_in_the_table_and_its_notes():
    evaluation = STUDY.evaluation.model_copy(update={"restarts": 3, "autoattack": 50})
    study = STUDY.model_copy(update={"evaluation": evaluation})
    known = [record(item("standard", (0,)), {0: accuracies(0.9) | {"test/adv_accuracy_autoattack": 0.25}})]
    table = accuracy_table(Results(study, tuple(known)))
    assert row_of(table, "Std. Training")["Adv. Acc. (AutoAttack)"].interval.mean == pytest.approx(25.0)
    assert any("from 3 starts" in note and "AutoAttack: 50 test images" in note for note in table.notes)
    assert "Adv. Acc. (AutoAttack)" not in accuracy_table(results(known)).columns


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(1.23456, 0.0123, 5), "1.235 ± 0.012"),
        (Interval(123.456, 21.9, 5), "123 ± 22"),
        (Interval(-0.00001, 0.5, 5), "0.00 ± 0.50"),
        (Interval(1.0, 0.0, 5), "1.00 ± 0.00"),
        (Interval(-1.0, 0.0996, 5), "−1.00 ± 0.10"),
        (Interval(1.5, None, 5, (0.91, 2.3)), "1.50 [0.91, 2.30]"),
    ],
)
def test_numbers_are_rounded_by_the_half_widths_first_two_digits(interval, text):
    assert str(Estimate(interval, 5, decimals=None)) == text


@pytest.mark.parametrize(
    ("half_width", "text"), [(0.05, "99.38 ± 0.05"), (0.004, "99.3800 ± 0.0040"), (0.0, "99.38 ± 0.00")]
)
def test_the_papers_two_decimals_never_print_an_interval_as_zero_that_is_not(half_width, text):
    assert str(Estimate(Interval(99.38, half_width, 5), 5)) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.04321, "0.043"), (0.5, "0.50"), (1.0, "1.00"), (0.000012, "< 0.0001"), (None, "–")]
)
def test_p_values_are_printed_to_two_digits(p, text):
    assert str(Probability(p)) == text


def test_arms_that_are_called_alike_are_told_apart():
    arms = {name: STUDY.arms["standard"].model_copy(update={"title": "Plain"}) for name in ("a", "b")}
    table = accuracy_table(Results(STUDY.model_copy(update={"arms": arms}), ()))
    assert [row[0] for row in table.rows] == ["Plain (a)", "Plain (b)"]


def test_what_one_shared_teacher_leaves_open_is_told():
    arms = dict(STUDY.arms)
    targets = arms["interp_robust"].targets.model_copy(update={"teachers": "per_seed"})
    own = STUDY.model_copy(
        update={"arms": arms | {"interp_robust": arms["interp_robust"].model_copy(update={"targets": targets})}}
    )
    told = [
        any("Interp. Reg. R. from Adv. Training" in note for note in accuracy_table(Results(study, ())).notes)
        for study in (STUDY, own)
    ]
    assert told == [True, False]


# -------------------------------------------------------------------------- renderers
@pytest.mark.parametrize("make", [accuracy_table, gradient_table, settings_table])
@pytest.mark.parametrize("ledger", [[], STANDARD])
def test_a_reader_of_markdown_sees_the_table_cell_by_cell(make, ledger):
    table = make(results(ledger))
    shown = MarkdownIt("commonmark").enable("table").parse(to_markdown(table))
    kinds = [token.type for token in shown]
    assert (kinds.count("table_open"), kinds.count("list_item_open")) == (1, len(table.notes))
    cells = ["".join(child.content for child in one.children or []) for one in shown if one.type == "inline"]
    expected = [table.title, *map(str, table.columns), *(str(cell) for row in table.rows for cell in row)]
    assert cells[: len(expected)] == expected


def test_markdown_escapes_what_would_break_it():
    text = to_markdown(Table("T", ("Arm", "x"), (("a|b", "1"),), ("bad | <b>\nnext",)))
    assert "| a\\|b | 1 |" in text
    assert "- bad \\| &lt;b> next" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TypeError: Net.__init__() got *x*", r"TypeError: Net.\_\_init\_\_() got \*x\*"),
        ("a &lt; b & `c`", r"a &amp;lt; b &amp; \`c\`"),
        ("~~x~~ $y$ [z](w)", r"\~\~x\~\~ \$y\$ [z]\(w)"),
        ("# one", r"\# one"),
        ("- one", r"\- one"),
        ("λ_J of interp_robust: 3.0 [1, 2] (n=1)", "λ_J of interp_robust: 3.0 [1, 2] (n=1)"),
    ],
)
def test_markdown_shows_text_as_it_is(text, said):
    assert escape(text) == said


def test_csv_keeps_numbers_unrounded():
    table = Table("T", ("Arm", "x", "y"), (("a", Estimate(Interval(1.234375, 0.5, 5), 5), Estimate(None, 5)),))
    assert to_csv(table) == [
        {"table": "T", "row": "a", "column": "x", "text": "1.23 ± 0.50"}
        | {"mean": 1.234375, "half_width": 0.5, "low": 0.734375, "high": 1.734375, "n": 5, "p": None},
        {"table": "T", "row": "a", "column": "y", "text": "–"} | dict.fromkeys(NUMBERS),
    ]


def test_json_has_every_cell_with_its_numbers():
    table = Table("T", ("Arm", "x", "p"), (("a", Estimate(Interval(1.5, None, 5, (1, 2)), 5), Probability(0.25)),))
    ((name, x, p),) = to_json(table)["rows"]
    assert name == {"text": "a"}
    assert (x["text"], x["low"], x["high"], x["half_width"]) == ("1.50 [1.00, 2.00]", 1, 2, None)
    assert (p["text"], p["p"]) == ("0.25", 0.25)


def test_the_terminal_shows_brackets_as_they_are():
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as shown:
        console.print(to_rich(Table("T", ("Arm",), (("[red]a[/red]",),), ("KeyError: [0]",))))
    assert "[red]a[/red]" in shown.get()
    assert "KeyError: [0]" in shown.get()
