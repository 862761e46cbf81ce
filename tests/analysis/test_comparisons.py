"""All pairs of arms, by hand: which are compared, over which seeds, and which are not tested."""

import pytest
from helpers.ledgers import STANDARD, STUDY, accuracies, record, results, row_of, train
from scipy import stats

from analysis.results.results import Results
from analysis.tables.cells import Probability
from analysis.tables.comparisons import MOST_ARMS, comparison_tables, list_pairs

CLEAN = [0.98, 0.985, 0.979, 0.982, 0.984]


def arm(name, clean, params=None, **kind):
    return [record(train(name, s, params), accuracies(one), **kind) for s, one in enumerate(clean)]


def clean_table(ledger):
    return comparison_tables(results(ledger))[0]


def test_every_pair_is_listed_once_in_the_order_of_the_study():
    titles = [row[0] for row in clean_table([]).rows]
    assert titles[:2] == ["Adv. Training − Std. Training", "Interp. Reg. R. − Std. Training"]
    assert titles[-1] == "Jacobian Reg. − Interp. Reg. R."
    assert len(set(titles)) == 6


def test_each_accuracy_is_a_table_and_a_family_of_tests():
    tables = comparison_tables(results([*STANDARD, *arm("adversarial", CLEAN)]))
    assert ["over the 1 tests" in " ".join(table.notes) for table in tables] == [True, False, False]


def test_a_pair_by_hand():
    ledger = [*STANDARD, *arm("adversarial", CLEAN), *arm("jacobian", [0.97] * 4 + [0.96], {"lambda_j": 0.1})]
    row = row_of(clean_table(ledger), "Adv. Training − Std. Training")
    standard = [0.99, 0.991, 0.992, 0.993, 0.994]
    expected = stats.ttest_rel(CLEAN, standard)
    assert row["Difference, points"].interval.mean == pytest.approx(100 * (sum(CLEAN) - sum(standard)) / 5)
    assert row["p"].p == pytest.approx(expected.pvalue)
    p_values = [cells[2].p for cells in clean_table(ledger).rows if cells[2].p is not None]
    assert len(p_values) == 3
    assert row["p (Holm)"].p == pytest.approx(max(expected.pvalue, *(3 * p for p in p_values if p == min(p_values))))
    assert (row["n"], row["g_z"].interval.n) == ("5", 5)


def test_only_common_seeds_count_and_n_is_their_number():
    lost = record(train("adversarial", 4), state="diverged", error="the loss is nan")
    table = clean_table([*STANDARD[1:], *arm("adversarial", CLEAN[:4]), lost])
    row = row_of(table, "Adv. Training − Std. Training")
    assert row["n"] == "3"
    assert str(row["Difference, points"]).endswith("(n=3)")
    assert "adversarial: seed 4 diverged: the loss is nan." in table.notes
    assert "standard: seed 0 not in the ledger yet." in table.notes


def test_pairs_without_a_test_have_a_reason():
    same = [clean - 0.01 for clean in (0.99, 0.991, 0.992, 0.993, 0.994)]
    table = clean_table([*STANDARD, *arm("adversarial", same), *arm("jacobian", [0.9], {"lambda_j": 0.1})])
    notes = " ".join(table.notes)
    assert "Not tested, the same difference in every seed: Adv. Training − Std. Training." in notes
    assert "Not tested, one seed only: Jacobian Reg. − Std. Training; Jacobian Reg. − Adv. Training." in notes
    assert "Not tested, no common seed: Interp. Reg. R. − Std. Training" in notes
    row = row_of(table, "Adv. Training − Std. Training")
    assert (row["p"], row["p (Holm)"], str(row["g_z"])) == (Probability(None), Probability(None), "–")
    assert str(row["Difference, points"]) == "−1.00 ± 0.00"
    assert str(row_of(table, "Jacobian Reg. − Std. Training")["Difference, points"]) == "−9.0000 (n=1)"


def test_of_many_arms_each_is_compared_with_standard_training_alone():
    arms = {f"arm{n:02d}": STUDY.arms["adversarial"] for n in range(MOST_ARMS)} | {"plain": STUDY.arms["standard"]}
    study = STUDY.model_copy(update={"arms": arms})
    assert list_pairs(Results(study, ())) == [(name, "plain") for name in arms if name != "plain"]
