"""Rows and Tables 1 and 3 of hand-made ledgers: numbers by hand, gaps visible, no outdated result in a mean."""

import math

import pytest
from helpers.ledgers import STANDARD, STUDY, T4, accuracies, current, flat, record, results, row_of, train

from analysis.results import rows
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from analysis.tables.accuracy import accuracy_table, gradient_table
from analysis.tables.cells import Estimate, Probability
from analysis.tables.settings import settings_table
from tune_interpreg.study.config import AttackEntry, Study

STD = "Std. Training"


# ------------------------------------------------------------------------------- rows


def test_a_row_has_the_images_of_the_judgment_behind_it():
    metrics = accuracies(0.9) | {"train/loss": 0.5, "val/accuracy": 0.8, "grad_norm/label": 3.0, "grad_norm/other": 2.0}
    frame = results([record(train("standard", 3), metrics)]).frame
    assert dict(zip(frame["metric"], frame["value"], strict=True)) == metrics
    images = dict(zip(frame["metric"], frame["images"], strict=True))
    assert images["train/loss"] == images["grad_norm/label"] == 55_000
    assert (images["val/accuracy"], images["test/accuracy"]) == (5_000, 10_000)


def test_missing_seeds_have_a_reason():
    ledger = [
        *STANDARD[:2],
        record(train("standard", 2), state="failed", error="ValueError: no\ndetails"),
        record(train("standard", 3), state="diverged", error="loss is nan"),
    ]
    missing = [gap for gap in rows.find_missing(current(ledger)) if gap.arm == "standard"]
    assert missing == [
        rows.MissingSeed("standard", 2, "failed", "ValueError: no"),
        rows.MissingSeed("standard", 3, "diverged", "loss is nan"),
        rows.MissingSeed("standard", 4, "absent"),
    ]


def test_equal_troubles_of_a_search_are_one_line():
    trials = [train("jacobian", 0, {"lambda_j": x}, number=n) for n, x in enumerate((0.1, 0.2))]
    lost = [record(trial, state="failed", error="boom") for trial in trials]
    assert rows.list_troubles(current([*lost, *STANDARD])) == ["jacobian: 2 trials failed: boom"]


# ----------------------------------------------------------------------------- tables
def test_table_1_by_hand():
    cells = row_of(accuracy_table(results(STANDARD)), STD)
    clean = cells["Std. Acc."]
    assert clean.interval.mean == pytest.approx(99.2)
    assert clean.interval.half_width == pytest.approx(T4 * 0.1 * math.sqrt(2.5) / math.sqrt(5))
    assert str(clean) == "99.20 ± 0.20"
    assert str(cells["Adv. Acc. (strict)"]) == "50.00 ± 0.00"
    assert str(cells["Std. Acc., paper"]) == "99.38 ± 0.05"
    assert str(cells["Adv. Acc. (compat), paper"]) == "61.05 ± 0.57"
    assert "Adv. Acc. (strict), paper" not in cells


def test_other_data_has_no_paper_column():
    table = accuracy_table(Results(STUDY.model_copy(update={"data": Study(arms=STUDY.arms).data}), ()))
    assert table.columns == ("Arm", "Std. Acc.", "Adv. Acc. (compat)", "Adv. Acc. (strict)")
    assert not any("paper's" in note for note in table.notes)


@pytest.mark.parametrize("state", ["failed", "diverged"])
def test_a_lost_seed_shows_in_the_cell_and_in_the_notes(state):
    lost = record(train("standard", 4), state=state, error="why\nTraceback")
    table = accuracy_table(results([*STANDARD[:4], lost]))
    assert str(row_of(table, STD)["Std. Acc."]) == "99.15 ± 0.21 (n=4)"
    assert f"standard: seed 4 {state}: why." in table.notes
    table = accuracy_table(results([*STANDARD[:4], record(train("standard", 4), accuracies(None))]))
    assert "standard: seed 4 without a finite test/accuracy." in table.notes


def test_damaged_records_are_named_under_the_tables_of_their_arm():
    file = "ledger/standard/0123.json: is damaged"
    damaged = Results(STUDY, tuple(flat(STANDARD[:4])), damaged={"standard": [file]})
    assert any(file in note for note in accuracy_table(damaged).notes)
    assert not any(file in note for note in settings_table(damaged).notes), "standard is in no row of it"


def test_one_seed_has_wilsons_interval_and_none_a_dash():
    table = accuracy_table(results(STANDARD[:1]))
    assert str(row_of(table, STD)["Std. Acc."]) == "99.00 [98.79, 99.18] (n=1)"
    assert any("Wilson" in note and "10000 images" in note for note in table.notes)
    table = accuracy_table(results([]))
    assert not any("Wilson" in note for note in table.notes)
    assert str(row_of(table, STD)["Std. Acc."]) == "–"


def test_notes_state_n_attack_images_and_departures():
    notes = " ".join(accuracy_table(results(STANDARD)).notes)
    for fact in (
        "PGD, l2, ε = 1.5, 40 steps, on 10000 test images. compat: steps of 0.0938,",
        "train images: 55000 (paper: 60000)",
        "device: cpu (paper: not stated)",
    ):
        assert fact in notes


def test_table_3_by_hand():
    ledger = [record(train("standard", s), {"grad_norm/label": 4.0 + s, "grad_norm/other": 2.0}) for s in range(2)]
    cells = row_of(gradient_table(results(ledger)), STD)
    assert str(cells["‖∇f_c‖ label"]) == "4.50 ± 6.35 (n=2)"
    assert str(cells["‖∇f_c‖ label, paper"]) == "7.43 ± 0.04"
    assert str(cells["‖∇f_k‖ other, paper"]) == "3.93 ± 0.02"


@pytest.mark.parametrize(("teachers", "noted"), [("shared", True), ("per_seed", False)])
def test_a_note_says_what_a_shared_teacher_leaves_open(teachers, noted):
    arms = STUDY.model_dump()["arms"]
    arms["interp_robust"] |= {"teacher": "adversarial", "teachers": teachers}
    notes = accuracy_table(Results(Study.model_validate(STUDY.model_dump() | {"arms": arms}), ())).notes
    assert any("Interp. Reg. R. from Adv. Training" in note for note in notes) == noted


def test_restarts_and_autoattack_are_in_the_table_and_its_notes():
    evaluation = STUDY.evaluation.model_copy(update={"restarts": 3, "attacks": (AttackEntry(autoattack=50),)})
    of = STUDY.model_copy(update={"evaluation": evaluation})
    metrics = accuracies(0.9) | {"test/adv_accuracy_autoattack": 0.25}
    ledger = [record(train("standard", 0, of=of), metrics, of=of)]
    table = accuracy_table(results(ledger, of))
    (column,) = set(table.columns) - set(accuracy_table(results(ledger)).columns)
    assert row_of(table, STD)[column].interval.mean == pytest.approx(25.0)
    assert any("3 starts" in note for note in table.notes)
    assert any("AutoAttack, l2, ε = 1.5, on 50 test images" in note for note in table.notes)


def test_arms_with_the_same_title_are_distinguished_by_their_keys():
    arms = {name: STUDY.arms["standard"].model_copy(update={"title": "Plain"}) for name in ("a", "b")}
    table = accuracy_table(Results(STUDY.model_copy(update={"arms": arms}), ()))
    assert [row[0] for row in table.rows] == ["Plain (a)", "Plain (b)"]


# ------------------------------------------------------------------------------- cells
@pytest.mark.parametrize(
    ("interval", "decimals", "text"),
    [
        (Interval(1.23456, 0.0123, 5), None, "1.235 ± 0.012"),
        (Interval(123.456, 21.9, 5), None, "123 ± 22"),
        (Interval(-0.00001, 0.5, 5), None, "0.00 ± 0.50"),
        (Interval(1.0, 0.0, 5), None, "1.00 ± 0.00"),
        (Interval(-1.0, 0.0996, 5), None, "−1.00 ± 0.10"),
        (Interval(1.5, None, 5, (0.91, 2.3)), None, "1.50 [0.91, 2.30]"),
        (Interval(99.38, 0.05, 5), 2, "99.38 ± 0.05"),
        (Interval(99.38, 0.004, 5), 2, "99.3800 ± 0.0040"),
    ],
)
def test_numbers_are_rounded_at_the_second_digit_of_the_half_width_or_to_two_decimals(interval, decimals, text):
    assert str(Estimate(interval, 5, decimals)) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.04321, "0.043"), (0.5, "0.50"), (1.0, "1.00"), (0.000012, "< 0.0001"), (None, "–")]
)
def test_p_values_are_printed_to_two_digits(p, text):
    assert str(Probability(p)) == text
