"""Settings that searches chose, and how well a loss was matched: numbers by hand, all verdicts."""

import math

import pytest
from helpers import drawn
from helpers.ledgers import STUDY, T4, flat, record, results, row_of, train

from analysis.results.results import Results
from analysis.tables.settings import settings_table


def losses(arm, params, values):
    return [record(train(arm, s, params), {"train/loss": value}) for s, value in enumerate(values)]


def test_settings_show_what_was_chosen_and_the_paired_residual():
    ledger = [
        *losses("interp_robust", {"lambda": 0.0712345, "phi": 1.0}, [0.30, 0.40, 0.50, 0.60, 0.70]),
        *losses("jacobian", {"lambda_j": 0.033}, [0.31, 0.41, 0.52, 0.61, 0.70]),
        record(train("jacobian", 0, {"lambda_j": 0.5}, number=0), {"train/loss": 0.9}),
    ]
    table = settings_table(results(ledger))
    robust, jacobian = row_of(table, "Interp. Reg. R."), row_of(table, "Jacobian Reg.")
    assert (robust["Chosen"], robust["Paper"]) == ("λ 0.0712, φ 1", "λ 0.07, φ 1")
    assert (jacobian["Chosen"], jacobian["Paper"]) == ("λ_J 0.033", "–")
    assert (jacobian["Search"], jacobian["Trials"]) == ("match interp_robust", "1 of 4")
    assert robust["Loss"].interval.mean == pytest.approx(0.5)
    assert jacobian["Loss"].interval.mean == pytest.approx(0.51)
    # differences .01, .01, .02, .01, 0: mean .01, s² = 2·10⁻⁴/4
    assert jacobian["Residual"].interval.half_width == pytest.approx(T4 * math.sqrt(0.5e-4 / 5), rel=1e-5)
    assert str(jacobian["Residual"]) == "0.0100 ± 0.0088"


def test_a_match_of_the_cross_entropy_is_judged_by_it():
    arms = dict(STUDY.arms)
    search = arms["jacobian"].search.model_copy(update={"loss": "ce"})
    arms["jacobian"] = arms["jacobian"].model_copy(update={"search": search})
    ledger = [
        record(train(arm, seed, params), {"train/loss": 9.0 * seed, "train/ce": ce + seed / 10})
        for arm, params, ce in (
            ("interp_robust", {"lambda": 0.1, "phi": 1.0}, 0.5),
            ("jacobian", {"lambda_j": 1.0}, 0.25),
        )
        for seed in range(5)
    ]
    jacobian = row_of(settings_table(results(ledger, STUDY.model_copy(update={"arms": arms}))), "Jacobian Reg.")
    assert jacobian["Search"] == "match interp_robust (ce)"
    assert jacobian["Loss"].interval.mean == pytest.approx(0.45)
    assert jacobian["Residual"].interval.mean == pytest.approx(-0.25)


CHOICE = drawn.CHOICE | {"params": {"lambda_j": 0.1}, "low": 0.04, "high": 0.2, "tolerance": 0.1}


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "jacobian: λ_J = 0.1, 90% interval [0.04, 0.2]."),
        ({"feasible": False, "reason": "no λ"}, "jacobian: λ_J = 0.1, 90% interval [0.04, 0.2]; NO MATCH: no λ."),
        (
            {"target": None, "least": {"val/accuracy": 0.97}},
            "jacobian: chosen among trials with val/accuracy ≥ 0.9700.",
        ),
        (
            {"target": None, "least": {"val/accuracy": 0.97}, "feasible": False, "reason": "no trial"},
            "jacobian: chosen among trials with val/accuracy ≥ 0.9700; NOT SATISFIED: no trial.",
        ),
    ],
)
def test_the_notes_have_the_matched_strength_or_the_bounds(changes, note):
    assert note in settings_table(Results(STUDY, (), {"jacobian": CHOICE | changes})).notes


@pytest.mark.parametrize(
    ("residual", "spread", "tolerance", "verdict"),
    [
        (0.05, 0.0, 0.1, "PASS (±0.1)"),  # within the tolerance
        (0.2, 0.0, 0.1, "MISSED (±0.1)"),
        (0.2, 0.3, 0.1, "PASS (±0.1)"),  # the interval, ±2.776·0.3·√(10/4)/√5, contains 0
        (0.35, 0.3, 0.1, "NOT SHOWN (±0.1)"),  # it contains 0, but only because it is wide
        (0.2, 0.0, None, "MISSED (±0.071)"),  # the reference's standard error, 0.1·√(10/4)/√5
        (0.07, 0.0, None, "PASS (±0.071)"),
    ],
)
def test_the_verdict_on_a_match(residual, spread, tolerance, verdict):
    theirs = [1.0, 1.1, 1.2, 1.3, 1.4]
    ours = [loss + residual + spread * step for loss, step in zip(theirs, (-2, -1, 0, 1, 2), strict=True)]
    ledger = [
        *losses("interp_robust", {"lambda": 0.1, "phi": 1.0}, theirs),
        *losses("jacobian", {"lambda_j": 0.1}, ours),
    ]
    table = settings_table(Results(STUDY, tuple(flat(ledger)), {"jacobian": CHOICE | {"tolerance": tolerance}}))
    assert row_of(table, "Jacobian Reg.")["Match"] == verdict
    assert row_of(table, "Interp. Reg. R.")["Match"] == "–"
    single = [made for made in flat(ledger) if made["seed"] == 0]
    assert row_of(settings_table(results(single)), "Jacobian Reg.")["Match"].startswith("NOT SHOWN")


def test_options_that_are_words_are_in_the_notes():
    arms = {
        name: arm.model_copy(update={"params": {"norm": "batch", **arm.params}}) for name, arm in STUDY.arms.items()
    }
    params = {"lambda": 0.5, "phi": 1.0, "norm": "batch"}
    ledger = [record(train("interp_robust", 0, params))]
    table = settings_table(results(ledger, STUDY.model_copy(update={"arms": arms})))
    assert row_of(table, "Interp. Reg. R.")["Chosen"] == "λ 0.5, φ 1"
    assert "interp_robust, jacobian: norm batch." in table.notes
