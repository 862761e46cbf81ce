"""The trainings of a store as runs of a tracker: which there are, how they are named, and what they hold."""

from pathlib import Path

import pytest
from helpers.closed_form import drain, failing, losing, study, untrained
from helpers.tracked import EPOCHS, curved, store_of

import tune_interpreg
from analysis.results.results import Results
from tune_interpreg.store.store import Store
from tune_interpreg.study.metric_names import TEST_STRICT, TRAIN_LOSS, VAL_ADV_ACCURACY
from tune_interpreg.trackers.runs import list_runs
from tune_interpreg.trackers.tracker import TrackedRun


def runs_of(store: Store) -> list[TrackedRun]:
    return list(list_runs(Results.from_store(store)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(tmp_path_factory.mktemp("runs") / "store")


def test_each_training_of_an_arm_is_one_run(store: Store) -> None:
    runs = runs_of(store)
    trainings = {(record["arm"], record["key"]) for record in store.records() if record["kind"] == "train"}
    assert len(runs) == len(trainings) == len({run.id for run in runs})
    assert {(run.arm, run.facts["key"]) for run in runs} == trainings
    assert all(run.is_complete and run.state == "done" for run in runs)


def test_the_best_trial_and_the_repeat_of_its_seed_are_one_run(store: Store) -> None:
    (both,) = (run for run in runs_of(store) if run.stages == ("search", "repeats"))
    assert both.arm == "robust"
    assert both.facts["stage"] == "search, repeats"
    assert {VAL_ADV_ACCURACY, TEST_STRICT} <= both.metrics.keys()
    assert both.name == f"robust trial {both.facts['trial']} seed 0"


def test_results_have_the_names_and_values_of_the_data_frame(store: Store) -> None:
    frame = tune_interpreg.results(store.path)
    runs = {run.facts["key"]: run for run in runs_of(store)}
    assert len(frame) > 0
    for row in frame.itertuples():
        assert runs[row.key].metrics[row.metric] == row.value
    for key, rows in frame.groupby("key"):
        assert runs[key].params.items() >= rows.iloc[0].params.items()
        assert runs[key].params["seed"] == rows.iloc[0].seed


def test_a_run_holds_its_curve_and_the_whole_setting(store: Store) -> None:
    for run in runs_of(store):
        losses = [epoch[TRAIN_LOSS] for epoch in run.epochs]
        assert losses == pytest.approx([run.metrics[TRAIN_LOSS] + EPOCHS - epoch for epoch in (1, 2, 3)])
        assert {
            "training.lr",
            "training.epochs",
            "model.name",
            "attack.eps",
            "data.name",
            "method",
        } <= run.params.keys()
        assert not any(isinstance(value, dict) for value in run.params.values())
        assert (run.params.get("teacher"), "targets.sigma" in run.params) == (
            ("adversarial", True) if run.arm == "robust" else (None, False)
        )


def test_a_training_has_the_same_run_in_a_grown_study(tmp_path: Path, store: Store) -> None:
    grown = study("standard", "adversarial", "robust", seeds="[0, 1, 2]")
    other = store_of(tmp_path / "store")
    before = {run.id: run for run in runs_of(other)}
    assert before.keys() == {run.id for run in runs_of(store)}
    other.save_study(grown)
    drain(grown, other, curved)
    after = {run.id: run for run in runs_of(other)}
    assert after.keys() > before.keys()
    for key, run in before.items():
        assert (after[key].metrics, after[key].params) == (run.metrics, run.params)


def test_arms_with_equal_trainings_have_runs_of_their_own(tmp_path: Path) -> None:
    twins = study("standard", again="{method: standard}")
    runs = runs_of(store_of(tmp_path / "store", twins))
    assert [run.arm for run in runs] == ["standard", "standard", "again", "again"]
    assert len({run.id for run in runs}) == 4
    assert len({run.facts["key"] for run in runs}) == 2


def test_trials_of_several_seeds_have_a_run_per_seed(tmp_path: Path) -> None:
    space = "{lambda_j: {log_uniform: [0.05, 0.2]}}"
    search = f"{{space: {space}, maximize: val/adv_accuracy, trials: 3, seeds: 2}}"
    runs = runs_of(store_of(tmp_path / "store", study("standard", j=f"{{method: jacobian, search: {search}}}")))
    trials = [(run.facts["trial"], run.params["seed"]) for run in runs if "search" in run.stages]
    assert sorted(trials) == [(str(number), seed) for number in range(3) for seed in (0, 1)]


def test_trainings_that_failed_or_diverged_are_runs_with_their_reason(tmp_path: Path) -> None:
    lost = runs_of(store_of(tmp_path / "a", study("standard"), losing(1)))
    assert [run.state for run in lost] == ["done", "diverged"]
    assert (lost[1].facts["error"], lost[1].is_complete) == ("as asked", True)
    failed = runs_of(store_of(tmp_path / "b", study("standard"), failing(untrained)))
    assert {run.state for run in failed} == {"failed"}


def test_a_run_is_complete_once_its_model_is_judged(store: Store, tmp_path: Path) -> None:
    part = Store(tmp_path / "store")
    part.save_study(store.load_study())
    records = [record for record in store.records() if record["arm"] == "standard"]
    keys = {record["seed"]: record["key"] for record in records if record["kind"] == "train"}
    for record in records:
        if record["kind"] == "train" or record["model"] == keys[1]:
            part.write_record(record)
    runs = runs_of(part)
    assert [(run.params["seed"], run.is_complete) for run in runs] == [(0, False), (1, True)]
    assert [TEST_STRICT in run.metrics for run in runs] == [False, True]
    assert [len(run.records) > 1 for run in runs] == [False, True]
