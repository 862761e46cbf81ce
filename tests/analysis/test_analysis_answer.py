"""The paper's question answered from hand-made ledgers: numbers by hand, and never a claim beyond its interval."""

import math

import pytest
from helpers.ledgers import T4, accuracies, record, row_of

from analysis.results.results import Results
from analysis.tables import words
from analysis.tables.answer import gain_table, gains, match_table, matches
from analysis.tables.words import sentences
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Recipe

MATCH = {"match_loss_of": "taught"}
#: The arms bear names of their own: what they are is told by their methods and targets.
STUDY = Study(
    data="mnist",
    arms={
        "pgd": {"method": "adversarial"},
        "plain": {"method": "standard"},
        "taught": {"method": "interpretation", "targets": {"teacher": "pgd"}, "lambda": 0.1},
        "shuffled": {
            "method": "interpretation",
            "targets": {"teacher": "pgd", "permute": True},
            "search": {"space": {"lambda": {"log_uniform": [0.01, 1]}}, **MATCH},
        },
        "flat": {"method": "jacobian", "search": {"space": {"lambda_j": {"log_uniform": [0.01, 1]}}, **MATCH}},
    },
)
#: What the repeats of the searched arms were made with.
CHOSEN = {"shuffled": {"lambda": 0.1}, "flat": {"lambda_j": 0.1}}
PLAIN = [0.60, 0.61, 0.62, 0.63, 0.64]
LOSS = [1.0, 1.1, 1.2, 1.3, 1.4]


def repeats(arm, strict, *, compat=None, clean=(0.99,) * 5, loss=LOSS):
    """One repeat a value of ``strict``, of seeds 0, 1, …; compat: the same unless given."""
    work = [
        Item(
            arm=arm, role="repeat", recipe=Recipe.of(STUDY, method=STUDY.arms[arm].method, params=params), seeds=(seed,)
        )
        for seed in range(5)
        for params in [CHOSEN.get(arm, {})]
    ]
    both = zip(work, clean, compat or strict, strict, loss, strict=False)
    return [record(one, {one.seeds[0]: accuracies(*three) | {"train/loss": train}}) for one, *three, train in both]


def above(values, *differences):
    return [value + difference for value, difference in zip(values, differences, strict=False)]


def results(*groups, choices=None):
    return Results(STUDY, tuple(one for group in groups for one in group), choices or {})


def within(tolerance):
    return {"flat": {"params": CHOSEN["flat"], "tolerance": tolerance}}


def said_of(found, start):
    (line,) = [line for line in sentences(found) if line.startswith(start)]
    return line


# ----------------------------------------------------------------------------- gains
def test_a_gain_by_hand():
    strict = above(PLAIN, 0.10, 0.11, 0.12, 0.13, 0.14)
    compat = above(PLAIN, 0.10, 0.11, 0.12, 0.13, 0.15)
    clean = [0.989, 0.990, 0.991, 0.990, 0.990]
    found = results(repeats("plain", PLAIN), repeats("taught", strict, compat=compat, clean=clean))
    row = row_of(gain_table(found), "taught")
    assert str(row["Gain (strict)"]) == "12.0 ± 2.0"
    assert row["Gain (strict)"].interval.half_width == pytest.approx(T4 * math.sqrt(2.5) / math.sqrt(5))
    assert row["Gain (compat)"].interval.mean == pytest.approx(12.2)
    assert row["Strict − compat"].interval.mean == pytest.approx(-0.2)
    assert (row["Within ±1"], str(row["Std. Acc."])) == ("yes", "0.000 ± 0.088")
    assert row["p, strict"].p == pytest.approx(2 * next(one for one in gains(found) if one.arm == "taught").strict.p)
    assert said_of(found, "taught is") == (
        "taught is 12.0 ± 2.0 points more robust than plain under strict (12.2 ± 2.4 under compat),"
        " at equal clean accuracy (0.000 ± 0.088 points, within ±1 point); n = 5."
    )


def test_standard_training_is_known_by_its_method_and_is_no_row_of_its_own():
    table = gain_table(results())
    assert table.title == "Answer. Gains over plain, points"
    assert [row[0] for row in table.rows] == ["pgd", "taught", "shuffled", "flat"]


def test_a_study_without_standard_training_has_no_gains():
    arms = {"pgd": STUDY.arms["pgd"]}
    found = Results(STUDY.model_copy(update={"arms": arms}), ())
    assert gain_table(found).rows == ()
    assert sentences(found) == ("No arm is of method standard, so that no gain over standard training can be told.",)


def test_what_lies_within_chance_is_never_called_equal_nor_better():
    taught = repeats("taught", above(PLAIN, 0.10, -0.10, 0.02, -0.03, 0.05), clean=[0.99, 0.97, 0.98, 1.0, 0.95])
    said = said_of(results(repeats("plain", PLAIN), taught), "No difference")
    assert said.startswith("No difference in robustness between taught and plain could be shown under strict (0.8 ± 9")
    assert "clean accuracy is shown neither equal within ±1 point nor different (−1.2 ± 2.4 points); n = 5." in said


def test_attacks_that_disagree_are_both_told():
    strict = above(PLAIN, 0.01, -0.01, 0.02, -0.02, 0.0)
    found = results(
        repeats("plain", PLAIN, compat=above(PLAIN, *[0.05] * 4, 0.06)),
        repeats("taught", strict),
    )
    assert said_of(found, "taught against").startswith(
        "taught against plain: no difference in robustness shown (0.0 ± 2.0 points) under strict,"
        " but 5.2 ± 2.0 points less robust under compat"
    )
    assert said_of(found, "Compat and strict part") == (
        "Compat and strict part: under strict the gain is 5.20 ± 0.56 points larger for taught;"
        " compat flatters plain by 5.20 ± 0.56 points."
    )


def test_less_robust_and_a_lower_clean_accuracy_are_said_so():
    taught = repeats("taught", above(PLAIN, -0.1, -0.11, -0.12, -0.13, -0.14), clean=[0.95, 0.96, 0.95, 0.94, 0.95])
    said = said_of(results(repeats("plain", PLAIN), taught), "taught is")
    assert said.startswith("taught is 12.0 ± 2.0 points less robust than plain under strict")
    assert "at a clean accuracy 4.00 ± 0.88 points lower; n = 5." in said


def test_a_gain_that_does_not_withstand_the_correction_says_so():
    """p = 0.014 alone; four arms under two attacks, of which six tests are wide apart."""
    taught = repeats("taught", above(PLAIN, 0.01, 0.03, 0.02, 0.05, 0.04))
    others = [repeats(arm, above(PLAIN, 0.05, -0.05, 0.01, -0.03, 0.02)) for arm in ("pgd", "shuffled", "flat")]
    found = results(repeats("plain", PLAIN), taught, *others)
    said = said_of(found, "taught is")
    assert "3.0 ± 2.0 points more robust than plain under strict" in said
    assert "which does not withstand Holm's correction (p = 0.11 under strict, p = 0.11 under compat)" in said


# --------------------------------------------------------------------- what is missing
def test_lost_seeds_are_told_in_the_sentence_the_cell_and_below():
    strict = above(PLAIN, 0.10, 0.11, 0.12, 0.13)
    lost = record(
        Item(arm="taught", role="repeat", recipe=Recipe.of(STUDY, method="interpretation"), seeds=(4,)),
        state="failed",
        error="OSError: disk",
    )
    found = results(repeats("plain", PLAIN), repeats("taught", strict), [lost])
    assert said_of(found, "taught is").endswith("n = 4 of 5 seeds.")
    table = gain_table(found)
    assert str(row_of(table, "taught")["Gain (strict)"]).endswith("(n=4)")
    assert "taught: seed 4 failed: OSError: disk." in table.notes


def test_one_seed_shows_nothing():
    found = results(repeats("plain", PLAIN[:1]), repeats("taught", [0.9]))
    assert said_of(found, "taught against") == (
        "taught against plain: 30 points under strict, 30 under compat, with one seed only; clean accuracy: 0 points,"
        " with one seed only; n = 1 of 5 seeds."
    )
    row = row_of(gain_table(found), "taught")
    assert (row["Within ±1"], row["p, strict"].p) == ("–", None)


def test_the_same_gain_in_every_seed_is_no_interval():
    found = results(repeats("plain", PLAIN), repeats("taught", above(PLAIN, *[0.25] * 5)))
    assert said_of(found, "taught against") == (
        "taught against plain: 25 points under strict, 25 under compat, the same in all 5 seeds; clean accuracy: 0"
        " points, the same in all 5 seeds; n = 5."
    )
    assert row_of(gain_table(found), "taught")["Within ±1"] == "not shown"


def test_a_gain_without_a_spread_under_one_attack_is_told_for_that_one_alone():
    plain = repeats("plain", [0.0] * 5, compat=PLAIN)
    clean = [0.97, 0.96, 0.97, 0.98, 0.97]
    none = repeats("taught", [0.0] * 5, compat=above(PLAIN, 0.10, 0.11, 0.12, 0.13, 0.14), clean=clean)
    assert said_of(results(plain, none), "taught against") == (
        "taught against plain: 0 points, the same in all 5 seeds, under strict, 12.0 ± 2.0 points more robust under"
        " compat, at a clean accuracy 2.00 ± 0.88 points lower; n = 5."
    )
    strict = above(PLAIN, 0.10, 0.11, 0.12, 0.13, 0.14)
    same = repeats("taught", strict, compat=above(PLAIN, *[0.25] * 5))
    assert said_of(results(repeats("plain", PLAIN), same), "taught against").startswith(
        "taught against plain: 12.0 ± 2.0 points more robust under strict, 25 points, the same in all 5 seeds, under"
        " compat"
    )


def test_attacks_that_part_by_the_same_in_every_seed_are_said_to():
    strict = above(PLAIN, 0.10, 0.11, 0.12, 0.13, 0.14)
    taught = repeats("taught", strict, compat=above(strict, *[0.05] * 5))
    assert sentences(results(repeats("plain", PLAIN), taught))[-1] == (
        "Compat and strict part: under strict the gain is 5 points smaller for taught in all 5 seeds;"
        " compat flatters taught by 5 points in all 5 seeds."
    )


def test_a_p_that_does_not_withstand_is_printed_above_its_level():
    assert [words._above_alpha(p) for p in (0.11, 0.0502, 0.0500004)] == ["0.11", "0.0502", "0.0500004"]


def test_of_a_single_seed_no_bracket_is_explained_that_no_cell_has():
    found = results(repeats("plain", PLAIN[:1]), repeats("taught", [0.9]), repeats("flat", [0.9]))
    assert [note for table in (gain_table(found), match_table(found)) for note in table.notes if "Wilson" in note] == []


def test_nothing_finished_says_so():
    assert "taught: no seed has a result both of it and of plain yet." in sentences(results())
    assert "shuffled is to match the training loss of taught, but no seed has a result of both yet." in sentences(
        results()
    )


# ------------------------------------------------------------------- compat and strict
def test_attacks_that_agree_in_every_seed_are_said_to():
    found = results(repeats("plain", PLAIN), repeats("taught", above(PLAIN, 0.1, 0.2, 0.1, 0.2, 0.1)))
    assert sentences(found)[-1] == "Compat and strict agree: in every seed every gain is the same under both."


def test_a_parting_within_chance_is_not_called_one():
    strict = above(PLAIN, 0.1, 0.2, 0.1, 0.2, 0.1)
    taught = repeats("taught", strict, compat=above(strict, 0.001, 0, 0, 0.001, 0))
    assert sentences(results(repeats("plain", PLAIN), taught))[-1] == (
        "Compat and strict are not shown to part: the largest change of a gain is taught's, −0.040 ± 0.068 points."
    )


# -------------------------------------------------------------- at equal training loss
@pytest.fixture
def gained():
    return [repeats("plain", PLAIN), repeats("taught", above(PLAIN, 0.20, 0.21, 0.22, 0.23, 0.24))]


def test_permuted_maps_are_known_by_their_targets_and_keep_what_they_keep(gained):
    loss = above(LOSS, 0.01, -0.01, 0.0, 0.02, -0.02)
    found = results(*gained, repeats("shuffled", above(PLAIN, 0.15, 0.15, 0.16, 0.17, 0.17), loss=loss))
    assert [one.permuted for one in matches(found)] == [True, False]
    row = row_of(match_table(found), "shuffled")
    assert (row["Reference"], row["Match"], str(row["Residual"])) == ("taught", "PASS (±0.071)", "0.000 ± 0.020")
    assert row["Adv. Acc. (strict)"].interval.mean == pytest.approx(-6.0)
    said = said_of(found, "At matched")
    assert said == (
        "At matched training loss (residual 0.000 ± 0.020, PASS (±0.071); n = 5), shuffled, towards the"
        " same maps permuted, is 6.00 ± 0.88 points less robust than taught under strict:"
        " permuted maps keep 16.0 ± 1.2 of the 22.0 ± 2.0 points over plain."
    )


def test_a_missed_match_is_not_compared(gained):
    found = results(*gained, repeats("flat", PLAIN, loss=above(LOSS, 0.2, 0.21, 0.2, 0.19, 0.2)))
    assert row_of(match_table(found), "flat")["Match"] == "MISSED (±0.071)"
    said = said_of(found, "flat misses")
    assert said == (
        "flat misses the training loss of taught (residual 0.2000 ± 0.0088, MISSED (±0.071); n = 5): at equal loss the"
        " two cannot be compared."
    )


def test_no_difference_at_matched_loss_is_not_called_equal(gained):
    strict = above(PLAIN, 0.20, 0.22, 0.21, 0.24, 0.23)
    said = said_of(results(*gained, repeats("flat", strict, loss=above(LOSS, 0.01, -0.01, 0, 0, 0))), "At m")
    assert "flat shows no difference in robustness from taught under strict (0.0 ± 1.2 points)." in said


def test_seeds_lost_in_the_reference_count_in_no_residual_and_are_named(gained):
    plain, taught = gained
    found = results(plain, taught[1:3], repeats("flat", PLAIN, loss=above(LOSS, 0.01, -0.01, 0.02, 0, 0)))
    row = row_of(match_table(found), "flat")
    assert str(row["Residual"]).endswith("(n=2)")
    assert "taught: seeds 0, 3, 4 not in the ledger yet." in match_table(found).notes
    assert "n = 2 of 5 seeds" in said_of(found, "At matched")


def test_the_tolerance_of_the_search_is_in_the_verdict(gained):
    found = results(
        *gained,
        repeats("flat", PLAIN, loss=above(LOSS, 0.02, 0.021, 0.02, 0.019, 0.02)),
        choices=within(0.05),
    )
    assert row_of(match_table(found), "flat")["Match"] == "PASS (±0.05)"
    assert said_of(found, "At matched training loss (residual 0.02000 ± 0.00088, PASS (±0.05); n = 5), flat")


def test_a_residual_that_only_holds_0_by_its_width_is_not_called_a_match(gained):
    loss = above(LOSS, 0.42, -0.08, 0.52, -0.18, 0.32)
    found = results(*gained, repeats("flat", PLAIN, loss=loss), choices=within(0.05))
    assert row_of(match_table(found), "flat")["Match"] == "NOT SHOWN (±0.05)"
    start = (
        "At training losses shown neither equal nor different (residual 0.20 ± 0.39, NOT SHOWN (±0.05); n = 5), flat"
    )
    assert said_of(found, start)
