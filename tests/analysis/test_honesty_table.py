"""The honesty checks as a table, from hand-made records."""

from helpers.ledgers import STANDARD, STUDY, checks_item, record, results, row_of, train

from analysis.tables.honesty import honesty_table, summarize_warnings
from tune_interpreg.store import ledger
from tune_interpreg.study.config import AttackEntry, Checks

STD = "Std. Training"


def check(state="PASS", name="ball", n=1000, said="within the ball"):
    return {"check": name, "state": state, "n": n, "said": said, "values": {}}


ENSEMBLE = STUDY.model_copy(
    update={"evaluation": STUDY.evaluation.model_copy(update={"checks": Checks(autoattack=20)})}
)


def checked(seed, *checks, arm="standard", day=1, state="done", params=None, of=STUDY):
    """The record of the checks of one seed's model."""
    work = train(arm, seed, params)
    finished = {"finished": f"2026-01-{day:02d}T00:00:00+00:00"}
    return ledger.make_record(work, checks_item(work, of), state) | finished | {"checks": list(checks)}


def all_checked(*checks, seeds=range(5), **fields):
    return [checked(seed, *checks, **fields) for seed in seeds]


def notes_of(table, word):
    return [note for note in table.notes if word in note]


def test_without_checks_there_is_no_table():
    assert honesty_table(results(STANDARD)).rows == ()


def test_checks_of_all_seeds_pass():
    table = honesty_table(results([*STANDARD, *all_checked(check(), check(name="gradient"))]))
    assert table.columns == ("Check", STD)
    assert table.rows == (("ball", "PASS, n = 1000"), ("gradient", "PASS, n = 1000"))
    assert notes_of(table, "PGD, l2, ε = 1.5, 40 steps")
    assert notes_of(table, "3.1 points for 1000"), "Wilson's half-width at one half"


def test_a_warning_is_counted_in_the_cell_and_explained_in_the_notes():
    warning = check("WARN", "batch size", said="12 images differ: raise it")
    ledger = [*STANDARD, *all_checked(check(name="batch size"), seeds=(0, 1, 2)), *all_checked(warning, seeds=(3, 4))]
    table = honesty_table(results(ledger))
    assert row_of(table, "batch size")[STD] == "WARN 2 of 5, n = 1000"
    assert notes_of(table, "12 images differ") == [
        "standard, seeds 3, 4: batch size: 12 images differ: raise it (n = 1000 images)."
    ]
    assert summarize_warnings(results(ledger)) == ["WARN batch size: 2 of 5 models: raise it"]
    long = check("WARN", said=90 * "a word ")
    (line,) = summarize_warnings(results([*STANDARD, *all_checked(long)]))
    assert len(line) <= 80


def test_models_without_checks_are_named_with_the_reason():
    models = [record(train("adversarial", seed)) for seed in (0, 2)]
    lost = checked(2, arm="adversarial", state="failed") | {"error": "OSError: disk\ndetails"}
    ledger = (*STANDARD, *models, *all_checked(check(), seeds=(0, 2)), lost)
    table = honesty_table(results(ledger))
    assert row_of(table, "ball")[STD] == "PASS 2 of 5, n = 1000"
    assert notes_of(table, "not checked") == [
        "standard: seeds 1, 3, 4 not checked yet.",
        "adversarial: seed 0 not checked yet.",
        "adversarial: seed 2 not checked, failed: OSError: disk.",
    ]


def test_the_notes_have_the_number_of_images_of_the_checks_not_of_the_tables():
    study = ENSEMBLE.model_copy(
        update={"evaluation": ENSEMBLE.evaluation.model_copy(update={"attacks": (AttackEntry(autoattack=7),)})}
    )
    checks = all_checked(check(n=100), check(name="ensemble", n=20), of=study)
    notes = " ".join(honesty_table(results([*STANDARD, *checks], study)).notes)
    assert "on 100 validation images" in notes
    assert "AutoAttack: 20 of them." in notes
    assert "test images" not in notes


def test_equal_lines_of_several_models_are_one_note():
    skipped, warning = check("NONE", "ensemble", 0, "no images"), check("WARN", said="5 images left it")
    models = record(train("adversarial", 0))
    checks = (
        *all_checked(check(), skipped, seeds=(1, 3, 4), of=ENSEMBLE),
        *all_checked(warning, skipped, seeds=(0, 2), of=ENSEMBLE),
        checked(0, warning, skipped, arm="adversarial", of=ENSEMBLE),
    )
    table = honesty_table(results([*STANDARD, models, *checks], ENSEMBLE))
    assert row_of(table, "ensemble")[STD] == "NONE", "a check of nothing passes nothing"
    assert row_of(table, "ball")[STD] == "WARN 2 of 5, n = 1000"
    assert [note for note in table.notes if "no images" in note or "left" in note] == [
        "standard, seeds 0, 2; adversarial, seed 0: ball: 5 images left it (n = 1000 images).",
        "all checked models: ensemble: NONE, no images.",
    ]
    warned, left_out = "WARN ball: 3 of 6 models: 5 images left it", "NONE ensemble: 6 of 6 models: no images"
    assert summarize_warnings(results([*STANDARD, models, *checks], ENSEMBLE)) == [warned, left_out]


def test_an_ensemble_that_nobody_asked_for_has_no_row():
    """Earlier versions recorded it as NONE."""
    of_earlier_version = results([*STANDARD, *all_checked(check(), check("NONE", "ensemble", 0, "no images"))])
    assert [row[0] for row in honesty_table(of_earlier_version).rows] == ["ball"]
    assert summarize_warnings(of_earlier_version) == []


def test_cells_have_the_range_of_images_and_the_models_that_pass():
    """A model without a correct image has nothing to attack; the others differ in the number of correct images."""
    nothing = checked(0, check("NONE", "steps", 0, "nothing"))
    ledger = [*STANDARD, nothing, *(checked(seed, check(name="steps", n=96 + seed)) for seed in (1, 2, 3, 4))]
    assert row_of(honesty_table(results(ledger)), "steps")[STD] == "PASS 4 of 5, n = 97–100"


def test_the_later_of_two_checks_counts_and_a_failed_one_does_not():
    ledger = [
        *STANDARD,
        *all_checked(check("WARN"), day=1),
        *all_checked(check(), day=2),
        *all_checked(check("WARN"), day=3, state="failed"),
    ]
    assert row_of(honesty_table(results(ledger)), "ball")[STD] == "PASS, n = 1000"


def test_checks_of_models_that_are_in_no_table_are_left_out():
    old = all_checked(check("WARN"), arm="jacobian", params={"lambda_j": 0.1})
    new = record(train("jacobian", 0, {"lambda_j": 0.2}), day=2)
    assert honesty_table(results([*old, new])).rows == ()
    unasked = STUDY.model_copy(update={"seeds": (7,)})
    assert honesty_table(results([*STANDARD, *all_checked(check())], unasked)).rows == ()
