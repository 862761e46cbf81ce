"""An arm's own sections decide which trainings count: for the driver by their keys, for tables field by field."""

from pathlib import Path

from helpers.closed_form import drain, study, trainings
from helpers.studies import parse_study

from analysis.results.results import Results
from tune_interpreg.schedule.current import Current
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study

PLAIN = "{method: standard}"


def two_arms(own: str) -> Study:
    return study("standard", seeds="[0]", slow=f"{{method: standard{own}}}")


def counting(store: Store, of: Study) -> list[str]:
    """Return the keys of the repeats that tables count, of both arms."""
    current = Current(of, store.records(), keep_last_results=True)
    return [current.repeats[name][0]["key"] for name in of.arms if 0 in current.repeats[name]]


def test_a_changed_section_trains_again_and_the_old_one_brings_its_results_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = two_arms(", training: {lr: 0.5}"), two_arms(", training: {lr: 0.25}")
    keys = trainings(drain(first, store))
    assert len(set(keys)) == 2, "the arms differ in their learning rate"
    assert counting(store, first) == keys
    assert counting(store, second) == keys[:1]
    assert len(trainings(drain(second, store))) == 1
    assert counting(store, first) == keys
    assert trainings(drain(first, store)) == []


def test_a_section_that_changes_nothing_shares_the_training(tmp_path: Path) -> None:
    store, same = Store(tmp_path / "store"), two_arms(", training: {epochs: 30}, attack: {eps: 1.5}")
    keys = trainings(drain(same, store))
    assert len(keys) == 1
    assert counting(store, same) == keys * 2


def test_tables_name_an_arms_own_settings(tmp_path: Path) -> None:
    from analysis.tables.accuracy import accuracy_table

    own = ", training: {lr: 0.5}, model: {name: digits_cnn, activation: softplus}, data: {train_limit: 100}"
    results = Results(two_arms(own), ())
    (note,) = (note for note in accuracy_table(results).notes if "own training" in note)
    assert "slow: training.lr 0.5, data.train_limit 100, model.activation softplus." in note
    assert not [n for n in accuracy_table(Results(study("standard"), ())).notes if "own training" in n]


def test_a_store_takes_arms_with_other_sections(tmp_path: Path) -> None:
    """The setting of a store is the study's. An arm's sections are the arm's."""
    store = Store(tmp_path / "store")
    drain(two_arms(", training: {lr: 0.5}"), store)
    store.save_study(two_arms(", training: {lr: 0.5}"))
    store.check_setting(two_arms(", attack: {eps: 0.1}"))
    loaded = store.load_study()
    assert loaded.arms["slow"].training is not None
    assert loaded.arms["slow"].training.lr == 0.5
    assert parse_study(f"arms: {{a: {PLAIN}}}").arms["a"].training is None
