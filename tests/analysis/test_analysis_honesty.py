"""The honesty checks as a table, from hand-made records."""

from helpers.ledgers import STANDARD, STUDY, item, record, results, row_of

from analysis.results.results import Results
from analysis.tables.honesty import honesty_table
from tune_interpreg.study.items import Checked


def found(state="PASS", check="ball", n=1000, said="within the ball", **values):
    return {"check": check, "state": state, "n": n, "said": said, "values": values}


def checked(seeds, *checks, arm="standard", day=1, state="done", params=None):
    """What the record of one model's checks looks like, but that it tells of all ``seeds`` at once."""
    model = Checked(model=item(arm, (seeds[0],), params).key, seed=seeds[0], images=100)
    work = item(arm, tuple(seeds), params, role="checks")
    work = work.model_copy(update={"recipe": work.recipe.model_copy(update={"method": "checks", "checked": model})})
    return record(work, state=state, day=day) | {"checks": {str(seed): list(checks) for seed in seeds}}


def test_without_checks_there_is_no_table():
    assert honesty_table(results(STANDARD)).rows == ()


def test_checks_of_all_seeds_pass():
    table = honesty_table(results([*STANDARD, checked(range(5), found(), found(check="gradient"))]))
    assert table.columns == ("Check", "Std. Training")
    assert table.rows == (("ball", "PASS"), ("gradient", "PASS"))
    assert any("PGD, l2, ε = 1.5, 40 steps" in note for note in table.notes)
    assert any("3.1 points on 1000" in note for note in table.notes), "Wilson's half-width at one half"


def test_a_warning_is_counted_in_the_cell_and_worded_below():
    warned = found("WARN", "batch size", said="12 images differ between batches of 125 and 500")
    ledger = [*STANDARD, checked((0, 1, 2), found(check="batch size")), checked((3, 4), warned, day=2)]
    table = honesty_table(results(ledger))
    assert row_of(table, "batch size")["Std. Training"] == "WARN 2 of 5"
    assert (
        "standard, seeds 3, 4: batch size: 12 images differ between batches of 125 and 500 (n = 1000 images)."
        in table.notes
    )


def test_seeds_that_are_not_checked_are_told():
    table = honesty_table(results([*STANDARD, checked((0, 2), found())]))
    assert row_of(table, "ball")["Std. Training"] == "PASS (n=2)"
    assert "standard: seeds 1, 3, 4 not checked yet." in table.notes


def test_an_arm_whose_models_are_not_checked_is_told():
    models = [record(item("adversarial", (seed,)), {seed: {}}) for seed in (0, 1, 2)]
    lost = checked((2,), arm="adversarial", state="failed") | {"error": "OSError: disk\ndetails"}
    ledger = (*STANDARD, *models, checked(range(5), found()), lost)
    notes = honesty_table(Results(STUDY, ledger)).notes
    assert [note for note in notes if "not checked" in note] == [
        "adversarial: seeds 0, 1 not checked yet.",
        "adversarial: seed 2 not checked, failed: OSError: disk.",
    ]
    unasked = STUDY.model_copy(update={"checks": None})
    assert not any("not checked" in note for note in honesty_table(Results(unasked, ledger)).notes)


def test_the_images_of_the_checks_are_told_and_not_those_of_the_tables():
    study = STUDY.model_copy(update={"evaluation": STUDY.evaluation.model_copy(update={"autoattack": 7})})
    ensemble = found(check="ensemble", n=20)
    notes = " ".join(honesty_table(Results(study, (*STANDARD, checked(range(5), found(n=100), ensemble)))).notes)
    assert "on 100 validation images" in notes
    assert "AutoAttack: 20 of them." in notes
    assert "test images" not in notes
    without = honesty_table(Results(study, (*STANDARD, checked(range(5), found(n=100)))))
    assert "AutoAttack" not in " ".join(without.notes)


def test_a_check_that_did_not_run_passes_nothing():
    table = honesty_table(results([*STANDARD, checked(range(5), found(check="ensemble", n=0, said="asked for none"))]))
    assert row_of(table, "ensemble")["Std. Training"] == "–"
    assert "all checked models: ensemble: asked for none, did not run." in table.notes


def test_what_is_said_of_several_models_is_said_once():
    skipped, left = found(check="ensemble", n=0, said="asked for none"), found("WARN", said="5 images left it")
    models = record(item("adversarial", (0,)), {0: {}})
    checks = (
        checked((1, 3, 4), found(), skipped),
        checked((0, 2), left, skipped, day=2),
        checked((0,), left, skipped, arm="adversarial"),
    )
    notes = honesty_table(results([*STANDARD, models, *checks])).notes
    assert [note for note in notes if "ensemble" in note or "left" in note] == [
        "standard, seeds 0, 2; adversarial, seed 0: ball: 5 images left it (n = 1000 images).",
        "all checked models: ensemble: asked for none, did not run.",
    ]


def test_of_a_seed_checked_twice_the_later_counts_and_a_failed_check_not_at_all():
    ledger = [
        *STANDARD,
        checked(range(5), found("WARN"), day=1),
        checked(range(5), found(), day=2),
        checked(range(5), found("WARN"), day=3, state="failed"),
    ]
    assert row_of(honesty_table(results(ledger)), "ball")["Std. Training"] == "PASS"


def test_checks_of_models_that_no_table_rests_on_are_left_out():
    old = checked(range(5), found("WARN"), arm="jacobian", params={"lambda_j": 0.1})
    new = record(item("jacobian", (0,), {"lambda_j": 0.2}), {0: {}}, day=2)
    assert honesty_table(results([old, new])).rows == ()
    unasked = STUDY.model_copy(update={"seeds": (7,)})
    assert honesty_table(Results(unasked, (*STANDARD, checked(range(5), found())))).rows == ()


def test_each_arm_has_its_column():
    models = record(item("adversarial", (0,)), {0: {}})
    ledger = [*STANDARD, models, checked((0,), found()), checked((0,), found(check="radii"), arm="adversarial")]
    table = honesty_table(results(ledger))
    assert table.columns == ("Check", "Std. Training", "Adv. Training")
    assert table.rows == (("ball", "PASS (n=1)", "–"), ("radii", "–", "PASS (n=1)"))
