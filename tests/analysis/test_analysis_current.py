"""What of a ledger belongs to the study as it stands, after the study was changed, and changed back."""

import pytest
from helpers.closed_form import ARMS, drain, study
from helpers.ledgers import STANDARD, STUDY, accuracies, current, item, record, results

from analysis.report import build
from analysis.results import rows
from analysis.results.results import Results
from analysis.tables.accuracy import accuracy_table
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.status.standing import Standing
from tune_interpreg.store.store import Store, resolved
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import FORMAT

CLEAN = "test/accuracy"
SEARCH = {"space": {"lambda_j": {"log_uniform": [0.001, 1]}}, "match_loss_of": "interp_robust", "trials": 4}


def changed(**arms):
    """The study with other arms in the place of those of the same names."""
    return Study.model_validate(STUDY.model_dump() | {"arms": STUDY.model_dump()["arms"] | arms})


def clean(records, arm, study=STUDY, choices=None):
    return rows.values(rows.tabulate(current(records, study, choices)), arm, CLEAN)


def jacobian(params, value, day, seeds=range(5), **own):
    return [record(item("jacobian", (s,), params, **own), {s: accuracies(value)}, day=day) for s in seeds]


def trial(number, params, day=1, state="done", error=None):
    work = item("jacobian", (0,), params, "search", number=number)
    return record(work, {0: {"train/loss": 1.0}}, state=state, day=day, error=error)


# ----------------------------------------------------------------------------- teachers
TEACHERS = [record(item("adversarial", (seed,)), {seed: accuracies(0.9)}) for seed in range(3)]


def pupil(seed, teacher, value, day, state="done"):
    params = {"lambda": 0.1, "phi": 1.0}
    work = item("interp_robust", (seed,), params, teacher=TEACHERS[teacher]["key"], teacher_seed=teacher)
    done = {"metrics": {seed: accuracies(value)}} if state == "done" else {"error": "boom"}
    return record(work, state=state, day=day, **done)


def taught(teachers):
    arm = {"method": "interpretation", "targets": {"teacher": "adversarial", "teachers": teachers}, "phi": 1.0}
    search = {"space": {"lambda": {"log_uniform": [0.001, 1]}}, "maximize": "val/adv_accuracy"}
    return changed(interp_robust=arm | {"search": search}).model_copy(update={"seeds": (0, 1, 2)})


SHARED = [pupil(seed, 0, 0.1, day=1) for seed in range(3)]
PER_SEED = [pupil(1, 1, 0.9, day=2), pupil(2, 2, 0.9, day=2, state="failed")]


def test_what_another_seed_of_the_teacher_taught_is_in_no_mean_and_hides_no_failure():
    ledger = [*TEACHERS, *SHARED, *PER_SEED]
    assert clean(ledger, "interp_robust", taught("per_seed")) == {0: 0.1, 1: 0.9}
    gaps = [gap for gap in rows.find_missing(current(ledger, taught("per_seed"))) if gap.arm == "interp_robust"]
    assert gaps == [rows.MissingSeed("interp_robust", 2, "failed", "boom")]


def test_a_study_that_returns_to_one_teacher_finds_what_that_one_taught():
    assert clean([*TEACHERS, *SHARED, *PER_SEED], "interp_robust", taught("shared")) == {0: 0.1, 1: 0.1, 2: 0.1}


def test_a_teacher_trained_anew_leaves_what_the_former_one_taught_behind():
    assert clean([*TEACHERS[1:], *SHARED], "interp_robust", taught("shared")) == {}


# ------------------------------------------------------------------- changed, and back
def test_a_parameter_that_is_left_at_its_default_again_brings_its_repeats_back(tmp_path):
    """`run` saves the study with its methods' defaults, so that neither tables nor `status` need the methods' code."""
    store, arm = Store(tmp_path / "store"), {"method": "jacobian", "lambda_j": 0.1}
    batch, sample = (resolved(changed(jacobian=arm | own)).arms["jacobian"].params for own in ({}, {"norm": "sample"}))
    ledger = [*jacobian(batch, 0.9, day=1), *jacobian(sample, 0.1, day=2)]
    store.save_study(changed(jacobian=arm))
    assert clean(ledger, "jacobian", store.study()) == dict.fromkeys(range(5), 0.9)
    assert {one["key"] for one in Standing(store.study(), ledger, {}).of("jacobian", "repeat")} == {
        one["key"] for one in ledger[:5]
    }
    store.save_study(changed(jacobian=arm | {"norm": "sample"}))
    assert clean(ledger, "jacobian", store.study()) == dict.fromkeys(range(5), 0.1)


def test_once_a_search_has_chosen_only_repeats_of_its_choice_count():
    ledger = [*jacobian({"lambda_j": 0.1}, 0.9, day=1), *jacobian({"lambda_j": 0.2}, 0.1, day=2)]
    assert clean(ledger, "jacobian", choices={"jacobian": {"params": {"lambda_j": 0.1}}}) == dict.fromkeys(
        range(5), 0.9
    )
    assert clean(ledger, "jacobian") == dict.fromkeys(range(5), 0.1), "as long as it goes on, the latest"


def test_neither_repeats_nor_choices_of_another_space_count():
    ledger, choice = jacobian({"lambda_j": 0.01}, 0.9, day=1), {"jacobian": {"params": {"lambda_j": 0.01}}}
    space = {"lambda_j": {"log_uniform": [0.1, 1]}}
    study = changed(jacobian={"method": "jacobian", "search": {"space": space, "maximize": "val/accuracy"}})
    assert clean(ledger, "jacobian", study) == {}
    assert current(ledger, study, choice).choices == {}
    assert clean(ledger, "jacobian", choices=choice) == dict.fromkeys(range(5), 0.9), (
        "a match may look beyond its range"
    )


# ---------------------------------------------------------------------------- searches
def test_the_trials_of_a_search_are_those_that_it_would_make_each_number_once():
    ledger = [
        *(trial(number, {"lambda_j": (number + 1) / 8}) for number in range(6)),
        trial(0, {"lambda_j": 0.5}, day=2),
        trial(1, {"lambda_g": 0.5}, day=2),
        trial(2, {"lambda_j": 0.75}, day=2) | {"seeds": [7]},
    ]
    found = current(ledger).trials["jacobian"]
    assert [one["recipe"]["params"] for one in found] == [{"lambda_j": x} for x in (0.5, 0.25, 0.375, 0.5)]


def test_trials_of_a_method_or_a_parameter_that_the_arm_has_no_more_are_none_of_its_search():
    ledger = [trial(0, {"lambda_j": 0.1, "norm": "batch"})]
    other = changed(jacobian={"method": "jacobian", "norm": "sample", "search": SEARCH})
    assert len(current(ledger).trials["jacobian"]) == 1
    assert current(ledger, other).trials["jacobian"] == []


def test_of_a_grid_the_number_tells_the_trial():
    grid = {"grid": {"lambda_j": [0.1, 0.2]}, "maximize": "val/accuracy"}
    study = changed(jacobian={"method": "jacobian", "search": grid})
    ledger = [trial(0, {"lambda_j": 0.2}), trial(1, {"lambda_j": 0.2})]
    assert [one["number"] for one in current(ledger, study).trials["jacobian"]] == [1]


def test_failures_of_what_the_study_has_no_more_are_no_troubles():
    lost = [trial(number, {"lambda_j": 0.1}, state="failed", error="boom") for number in (0, 9)]
    maps = [
        record(item("adversarial", (0,), role="targets", teacher=key), state="failed", error="no room")
        for key in (TEACHERS[0]["key"], "0123456789abcdef")
    ]
    assert rows.list_troubles(current([*TEACHERS, *lost, *maps])) == [
        "jacobian: 1 search failed: boom",
        "adversarial: 1 targets failed: no room",
    ]


# ----------------------------------------------------------------------------- formats
@pytest.mark.parametrize("other", [FORMAT - 1, FORMAT + 1])
def test_records_of_another_format_are_in_no_table_and_told_below(tmp_path, other):
    ledger = [*STANDARD[:4], STANDARD[4] | {"format": other}]
    assert clean(ledger, "standard") == {0: 0.99, 1: 0.991, 2: 0.992, 3: 0.993}
    said = f"standard: 1 record of another format than {FORMAT}"
    assert f"{said} are left out." in accuracy_table(results(ledger)).notes
    store = Store(tmp_path / "store")
    store.save_study(STUDY)
    for one in ledger:
        store.write_record(one)
    assert f"Left out: {said}." in build(store.path).status


# --------------------------------------------------------------------- against the driver
def test_what_counts_is_what_the_driver_takes_up_again(tmp_path):
    """After a study, and after others of the same store: a longer search, another space, another φ, fewer seeds."""
    store = Store(tmp_path / "store")
    for of in (
        study(),
        study(robust=ARMS["robust"].replace("trials: 6", "trials: 8")),
        study(robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.08, 0.2]")),
        study(permuted=ARMS["permuted"].replace("phi: 1.0", "phi: 0.5")),
        study(seeds="[1]"),
        study(),
    ):
        drain(of, store)
        store.save_study(of)
        known, found = Dispatcher(of, store, "f").state, Results.from_store(store).current
        for arm in of.arms:
            assert {one["number"] for one in found.trials[arm]} == known.searches[arm].settled
            seeds = {seed for one in found.repeats[arm] for seed in one["seeds"]}
            assert seeds & set(of.seeds) == known.repeats[arm].settled
        assert set(found.choices) == {name for name, arm in of.arms.items() if arm.search}
