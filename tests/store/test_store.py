"""The store: writes are whole or not at all, another setting is refused, damage is named."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tune_interpreg.store import ledger
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import parse_study
from tune_interpreg.study.items import Item
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.recipe import Recipe

STUDY = """
data: {name: digits, train_limit: 600}
training: {epochs: 3, lr: 0.1}
seeds: [0, 1]
checks: null
arms:
  standard: {method: standard}
  jacobian:
    method: jacobian
    search: {space: {lambda_j: {log_uniform: [0.001, 1.0]}}, match_loss_of: standard, trials: 4}
"""


def study(*overrides: str) -> Study:
    return parse_study(STUDY, where="test.yaml", overrides=overrides)


def item(arm: str = "jacobian", number: int = 0, **fields: Any) -> Item:
    recipe = Recipe(method="jacobian", params={"lambda_j": 0.1 + number})
    return Item(**{"arm": arm, "role": "search", "recipe": recipe, "seeds": (0,), "number": number} | fields)


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ------------------------------------------------------------------- writing
def test_a_written_file_is_whole_and_readable_by_whom_the_umask_lets(store: Store) -> None:
    path = store.path / "a" / "b.json"
    old = os.umask(0o022)
    try:
        store.write_json(path, {"λ": [1, 2.5]})
    finally:
        os.umask(old)
    assert json.loads(path.read_text(encoding="utf-8")) == {"λ": [1, 2.5]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert files(store) == ["a/b.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_while_writing_leaves_the_old_file_and_no_litter(store: Store, error: type[BaseException]) -> None:
    path = store.path / "file"
    store.write_text(path, "old")

    def write() -> None:
        with store.replace_atomically(path) as temporary:
            temporary.write_text("half of the n")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert files(store) == ["file"]


def test_a_number_that_json_lacks_is_refused_and_not_written(store: Store) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        store.write_json(store.path / "file.json", {"loss": float("nan")})
    assert not store.path.exists()


def test_naming_a_store_touches_nothing(store: Store) -> None:
    store.check_setting(study())
    assert store.records() == store.started_items() == []
    assert not store.path.exists()


# --------------------------------------------------------------------- study
def test_a_saved_study_is_read_back_as_resolved(store: Store) -> None:
    """With its methods' defaults, which a later report could not tell without their code."""
    store.save_study(study())
    assert store.load_study() == resolve_study(study()) != study()
    jacobian = store.load_study().arms["jacobian"]
    assert jacobian.params == {"norm": "batch", "output": "logits", "dropout": "shared"}
    assert jacobian.search == study().arms["jacobian"].search


@pytest.mark.parametrize(
    "override",
    [
        "seeds=[0, 1, 2]",
        "arms.jacobian.search.trials=9",
        "arms.another={method: adversarial}",
        "data.root=/elsewhere",
        "resources.cpus=4",
        "name=renamed",
    ],
)
def test_a_study_may_grow_and_move(store: Store, override: str) -> None:
    store.save_study(study())
    store.check_setting(study(override))
    store.save_study(study(override))
    assert store.load_study() == resolve_study(study(override))
    store.check_setting(study())


def test_another_setting_is_refused_with_each_difference_and_both_values(store: Store) -> None:
    store.save_study(study())
    with pytest.raises(StoreError) as told:
        store.check_setting(
            study("training.epochs=9", "data.train_limit=null", "attack.eps=0.25", "evaluation.steps=7")
        )
    for difference in (
        "training.epochs is 3 there, 9 here",
        "data.train_limit is 600 there, None here",
        "attack.eps is 1.5 there, 0.25 here",
        "evaluation.steps is None there, 7 here",
        str(store.path),
    ):
        assert difference in str(told.value)
    assert "lr" not in str(told.value)
    assert store.load_study() == resolve_study(study())


def test_a_folder_of_something_else_is_refused(store: Store) -> None:
    store.path.mkdir()
    store.check_setting(study())
    (store.path / "thesis.doc").touch()
    with pytest.raises(StoreError, match="is no store and not empty"):
        store.check_setting(study())
    with pytest.raises(StoreError, match="is no store and not empty"):
        Store(store.path / "thesis.doc").check(study())


@pytest.mark.parametrize("content", [b"", b"arms: [", b"arms: {a: {method: 1}}", b"\xff"])
def test_a_study_that_cannot_be_read_is_named(store: Store, content: bytes) -> None:
    store.write_bytes(store.study_file, content)
    with pytest.raises(StoreError, match=r"study\.yaml: cannot be read as a study"):
        store.check_setting(study())


def test_reading_the_study_of_no_store_says_what_makes_one(store: Store) -> None:
    with pytest.raises(StoreError, match=r"is no store .* `run` makes one"):
        store.load_study()


# -------------------------------------------------------------------- ledger
def test_records_come_by_arm_role_and_number_and_each_names_its_item(store: Store) -> None:
    items = [item(arm, number) for number in (2, 10, 1) for arm in ("b", "a")]
    for one in items:
        store.write_record(ledger.make_record(one, "done", metrics={0: {"train/loss": 1.0}}))
    read = [store.item_of(record) for record in store.records()]
    assert read == sorted(items, key=lambda one: (one.arm, one.number))
    assert all(record["metrics"] == {"0": {"train/loss": 1.0}} for record in store.records())


def test_only_finite_metrics_are_recorded_and_a_mean_needs_every_seed() -> None:
    metrics = {0: {"a": 1.0, "b": float("nan")}, 1: {"a": 2.0, "b": 1.0}}
    record = ledger.make_record(item(seeds=(0, 1)), "done", metrics=metrics)
    assert record["metrics"] == {"0": {"a": 1.0}, "1": {"a": 2.0, "b": 1.0}}
    assert (ledger.mean_metric(record, "a"), ledger.mean_metric(record, "b"), ledger.mean_metric(record, "c")) == (
        1.5,
        None,
        None,
    )
    assert ledger.mean_metric(ledger.make_record(item(), "failed"), "a") is None


def test_a_twin_has_a_record_of_its_own_beside_the_one_that_ran(store: Store) -> None:
    ran, record = item(), ledger.make_record(item(), "done", seconds=5.0)
    store.write_record(record)
    for twin in (item(number=4, recipe=ran.recipe), item("other", recipe=ran.recipe)):
        written = store.write_copy(twin, record)
        assert written == record | {"arm": twin.arm, "number": twin.number, "seconds": 0.0}
        assert store.item_of(written) == twin
    assert files(store) == [
        f"ledger/{p}/{ran.key}{s}.json" for p, s in (("jacobian", "-4"), ("jacobian", ""), ("other", ""))
    ]
    assert store.records()[0] == record


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"arm": "a"}', "[" * 9999, '{"sha256": NaN}'])
def test_a_damaged_record_is_named_and_the_others_are_read(store: Store, content: str) -> None:
    store.write_record(ledger.make_record(item(), "done"))
    path = store.record_file("jacobian", "broken")
    store.write_text(path, content)
    (record,), (damaged,) = store.read_ledger()
    assert record["key"] == item().key
    assert damaged.path == path
    assert "is damaged: it " in str(damaged)


def test_a_sealed_record_without_what_records_have_is_named(store: Store) -> None:
    store.write_checked(store.record_file("jacobian", "broken"), {"arm": "jacobian", "state": "done"})
    assert "is no ledger record: it lacks format, key, role" in str(store.read_ledger()[1][0])


@pytest.mark.parametrize("damage", [{"recipe": 3}, {"seeds": "all"}, {"role": "chief"}])
def test_a_record_that_names_no_item_is_named(store: Store, damage: dict[str, Any]) -> None:
    record = ledger.make_record(item(), "done") | damage
    with pytest.raises(StoreError, match=f"{item().key}.json: is no ledger record"):
        store.item_of(record)


@pytest.mark.parametrize("change", [{"format": 0, "recipe": None}, {"key": "0123456789abcdef"}])
def test_a_record_of_another_format_or_key_names_no_item(store: Store, change: dict[str, Any]) -> None:
    assert store.item_of(ledger.make_record(item(), "done") | change) is None


def test_forgotten_failures_are_gone_and_counted_twins_too(store: Store) -> None:
    states: list[ledger.RecordState] = ["done", "failed", "diverged", "pruned", "failed"]
    for number, state in enumerate(states):
        store.write_record(ledger.make_record(item(number=number), state))
    store.write_copy(item(number=9, recipe=item(number=1).recipe), ledger.make_record(item(number=1), "failed"))
    assert store.delete_failures() == 3
    assert [record["state"] for record in store.records()] == ["done", "diverged", "pruned"]
    assert store.delete_failures() == 0


# ----------------------------------------------------------- items under way
def test_what_was_begun_is_known_until_it_ends(store: Store) -> None:
    items = [item(number=number) for number in (3, 0, 11)]
    for one in items:
        store.note_start(one)
        store.note_start(one)
    (store.checkpoint_dir(items[0].key) / "epoch.safetensors").touch()
    assert [one.number for one in store.started_items()] == [0, 3, 11]
    assert store.started_items()[1] == items[0]
    store.drop_checkpoint(items[0].key)
    store.drop_checkpoint(items[0].key)
    assert [one.number for one in store.started_items()] == [0, 11]
    assert not store.checkpoint_dir(items[0].key).exists()


def test_what_killed_runs_left_is_swept_and_nothing_else(store: Store) -> None:
    store.note_start(item())
    kept = files(store)
    for left in (store.path / "models" / ".seed-0.safetensors.x1.part", store.tune_dir / "run" / "trial" / "result"):
        left.parent.mkdir(parents=True)
        left.touch()
    store.remove_leftovers()
    assert files(store) == kept
    assert not store.tune_dir.exists()


def test_the_record_of_an_item_is_found_where_it_is_whole(store: Store) -> None:
    assert store.read_record(item()) is None
    store.write_record(ledger.make_record(item(), "failed"))
    assert store.read_record(item()) == store.records()[0]
    store.record_file(item().arm, item().key).write_text("{")
    assert store.read_record(item()) is None


def test_a_note_that_names_no_item_is_named(store: Store) -> None:
    store.note_start(item())
    note = store.checkpoint_dir(item().key) / "item.json"
    store.note_start(item(number=1))
    store.write_checked(note, {})
    (begun,), (damaged,) = store.read_notes()
    assert begun == item(number=1)
    assert str(damaged).startswith(f"{note}: names no item of this version: arm: ")
