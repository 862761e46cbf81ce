"""The store: files are complete or absent, another setting is refused, damage is named."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from helpers.studies import parse_study

from tune_interpreg.store import ledger
from tune_interpreg.store.files import Damaged, StoreError, read_checked
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
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
    return parse_study(STUDY, *overrides)


def item(arm: str = "jacobian", number: int = 0, **fields: Any) -> Item:
    recipe = Recipe(method="jacobian", params={"lambda_j": 0.1 + number})
    return Item(**{"arm": arm, "role": "search", "recipe": recipe, "seeds": (0,), "number": number} | fields)


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ------------------------------------------------------------------- writing
def test_a_file_is_complete_and_its_mode_follows_the_umask(store: Store) -> None:
    path, umask = store.path / "a" / "b.json", os.umask(0o022)
    try:
        store.write_json(path, {"λ": [1, 2.5]})
    finally:
        os.umask(umask)
    assert json.loads(path.read_text(encoding="utf-8")) == {"λ": [1, 2.5]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert files(store) == ["a/b.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(store: Store, error: type[BaseException]) -> None:
    path = store.path / "file"
    store.write_text(path, "old")
    with pytest.raises(error), store.replace_atomically(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    with pytest.raises(ValueError):
        store.write_json(path, {"loss": float("nan")})
    assert files(store) == ["file"]


def test_bytes_of_a_name_that_are_not_utf8_come_back_from_a_record(store: Store) -> None:
    error = os.fsdecode(b"cannot read /data/\xff.png, \xce\xbb")
    store.write_checked(store.choice_file("standard"), {"error": error})
    assert read_checked(store.choice_file("standard")) == {"error": error}
    assert b"\xce\xbb" in store.choice_file("standard").read_bytes()


def test_a_store_whose_path_is_not_utf8_is_refused() -> None:
    with pytest.raises(StoreError, match="is not UTF-8"):
        Store(os.fsdecode(b"/tmp/\xff"))


def test_the_constructor_and_the_check_of_an_empty_store_write_nothing(store: Store) -> None:
    store.check_setting(study())
    assert store.records() == store.read_notes()[0] == []
    assert not store.path.exists()


def test_a_damaged_file_is_set_aside_under_its_path_and_replaces_no_other(store: Store) -> None:
    path = store.record_file("arm", "key")
    for content in ("first", "second", "third"):
        store.write_text(path, content)
        message = store.set_aside(Damaged(path, "is damaged"))
    aside = sorted((store.path / "damaged" / "ledger" / "arm").iterdir())
    assert [(file.name, file.read_text()) for file in aside] == [
        ("key.json", "first"),
        ("key.json.1", "second"),
        ("key.json.2", "third"),
    ]
    assert message.endswith("damaged/ledger/arm/key.json.2")
    assert store.set_aside(Damaged(path, "is missing")) == f"{path}: is missing"


# --------------------------------------------------------------------- study
def test_a_study_is_saved_with_the_defaults_of_its_methods(store: Store) -> None:
    store.save_study(study())
    assert store.load_study() == resolve_study(study()) != study()
    jacobian = store.load_study().arms["jacobian"]
    assert jacobian.params == {"norm": "batch", "output": "logits", "dropout": "shared"}
    assert jacobian.search == study().arms["jacobian"].search


@pytest.mark.parametrize(
    "override",
    ["seeds=[0, 1, 2]", "arms.jacobian.search.trials=9", "arms.another={method: adversarial}", "data.root=/elsewhere"],
)
def test_a_study_may_grow_and_move(store: Store, override: str) -> None:
    store.save_study(study())
    store.check_setting(study(override))
    store.save_study(study(override))
    assert store.load_study() == resolve_study(study(override))
    store.check_setting(study())


def test_another_setting_is_refused_with_each_difference_and_both_values(store: Store) -> None:
    store.save_study(study())
    with pytest.raises(StoreError) as error:
        store.check_setting(study("training.epochs=9", "data.train_limit=null", "attack.eps=0.25"))
    message = str(error.value)
    for difference in ("training.epochs is 3 there, 9 here", "data.train_limit is 600 there", "attack.eps is 1.5"):
        assert difference in message
    assert "lr" not in message


def test_a_folder_of_something_else_is_refused(store: Store) -> None:
    store.path.mkdir()
    store.check_setting(study())
    (store.path / "thesis.doc").touch()
    for path in (store.path, store.path / "thesis.doc"):
        with pytest.raises(StoreError, match=f"{path}: is no store"):
            Store(path).check_setting(study())
    with pytest.raises(StoreError, match=f"{store.path}: is no store"):
        store.load_study()


# -------------------------------------------------------------------- ledger
def test_records_are_sorted_and_each_names_its_item(store: Store) -> None:
    items = [item(arm, number) for number in (2, 10, 1) for arm in ("b", "a")]
    for work in items:
        store.write_record(ledger.make_record(work, "done", metrics={0: {"train/loss": 1.0}}))
    assert [store.item_of(record) for record in store.records()] == sorted(items, key=lambda w: (w.arm, w.number))
    assert store.read_record(items[0]) in store.records()
    assert store.read_record(item("c")) is None


def test_only_finite_metrics_are_recorded_and_a_mean_needs_every_seed() -> None:
    metrics = {0: {"a": 1.0, "b": float("nan")}, 1: {"a": 2.0, "b": 1.0}}
    record = ledger.make_record(item(seeds=(0, 1)), "done", metrics=metrics)
    assert record["metrics"] == {"0": {"a": 1.0}, "1": {"a": 2.0, "b": 1.0}}
    assert [ledger.mean_metric(record, name) for name in ("a", "b", "c")] == [1.5, None, None]
    assert ledger.mean_metric(ledger.make_record(item(), "failed"), "a") is None


def test_an_item_of_the_same_key_gets_a_copy_of_the_record(store: Store) -> None:
    ran, record = item(), ledger.make_record(item(), "done", seconds=5.0)
    store.write_record(record)
    for work in (item(number=4, recipe=ran.recipe), item("other", recipe=ran.recipe)):
        copy = store.write_copy(work, record)
        assert copy == record | {"arm": work.arm, "number": work.number, "seconds": 0.0}
        assert store.item_of(copy) == work
    assert files(store) == [
        f"ledger/{name}.json" for name in (f"jacobian/{ran.key}-4", f"jacobian/{ran.key}", f"other/{ran.key}")
    ]
    assert store.records()[0] == record


@pytest.mark.parametrize("content", ["", "null", "{}", "[" * 9999, '{"sha256": NaN}'])
def test_a_damaged_record_is_named_and_the_others_are_read(store: Store, content: str) -> None:
    store.write_record(ledger.make_record(item(), "done"))
    path = store.record_file("jacobian", item(number=1).key)
    store.write_text(path, content)
    (record,), (damaged,) = store.read_ledger()
    assert (record["key"], damaged.path) == (item().key, path)
    assert store.read_record(item(number=1)) is None
    store.write_checked(path, {"arm": "jacobian", "state": "done"})
    assert "it lacks format, key, role" in str(store.read_ledger()[1][0])


@pytest.mark.parametrize("damage", [{"recipe": 3}, {"seeds": "all"}, {"role": "chief"}])
def test_a_record_that_describes_no_item_is_named(store: Store, damage: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=f"{item().key}.json: is no ledger record"):
        store.item_of(ledger.make_record(item(), "done") | damage)


@pytest.mark.parametrize("change", [{"format": 0, "recipe": None}, {"key": "0123456789abcdef"}])
def test_a_record_of_another_format_or_key_has_no_item(store: Store, change: dict[str, Any]) -> None:
    assert store.item_of(ledger.make_record(item(), "done") | change) is None


def test_failures_are_deleted_and_records_set_aside_with_their_copies(store: Store) -> None:
    states: list[ledger.RecordState] = ["done", "failed", "diverged", "pruned", "failed"]
    for number, state in enumerate(states):
        store.write_record(ledger.make_record(item(number=number), state))
    for number in (0, 1):
        copy = item(number=9 + number, recipe=item(number=number).recipe)
        store.write_copy(copy, ledger.make_record(item(number=number), states[number]))
    assert store.delete_failures() == 3
    assert store.delete_failures() == 0
    store.set_aside_records(item().key)
    assert [record["state"] for record in store.records()] == ["diverged", "pruned"]
    assert len(list((store.path / "damaged").rglob("*.json"))) == 2


# ------------------------------------------------------- items in progress
def test_an_item_in_progress_has_a_note_until_its_checkpoint_is_dropped(store: Store) -> None:
    items = [item(number=number) for number in (3, 0, 11)]
    for work in items:
        store.note_start(work)
    (store.checkpoint_dir(items[0].key) / "epoch.safetensors").touch()
    assert store.read_notes() == ([items[1], items[0], items[2]], [])
    assert store.checkpoint_keys() == {work.key for work in items}
    store.drop_checkpoint(items[0].key)
    store.drop_checkpoint(items[0].key)
    store.write_checked(store.note_file(items[2].key), {})
    notes, (damaged,) = store.read_notes()
    assert (notes, damaged.path) == ([items[1]], store.note_file(items[2].key))


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(store: Store) -> None:
    store.note_start(item())
    before = files(store)
    overview = store.tensorboard_dir / "events.out.tfevents.1"
    partial = store.path / "models" / ".seed-0.safetensors.x1.part"
    for path in (partial, store.tune_dir / "run" / "trial" / "result", overview):
        path.parent.mkdir(parents=True)
        path.touch()
    store.remove_leftovers()
    assert files(store) == before
    assert not store.tune_dir.exists()


def test_a_folder_of_records_that_cannot_be_read_is_no_empty_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who may read all: the system's refusal is put in place of its call."""
    (store.path / "ledger").mkdir(parents=True)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError):
        store.record_files()
