"""The store: files are complete or absent, another setting is refused, damage is named."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.jobs import training_job
from helpers.studies import parse_study

from tune_interpreg.store import ledger
from tune_interpreg.store.files import Damaged, StoreError, read_checked, text_with_checksum
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.yaml_text import dump
from tune_interpreg.study.items import Job
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.recipe import FORMAT, Recipe

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


def trial(number: int = 0, arm: str = "jacobian") -> Job:
    return training_job(Recipe(method="jacobian", params={"lambda_j": 0.1 + number}), arm, number=number)


def record_of(job: Job, state: ledger.RecordState = "done", **fields: Any) -> Record:
    return ledger.make_record(job, job.models[0], state, **fields)


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_store_with_searches_of_an_earlier_version_continues_under_a_new_study_file(store: Store) -> None:
    """Its own file cannot be read as a study any more, and the message says what to write."""
    store.save_study(study())
    content = yaml.safe_load(store.study_file.read_text())
    content["arms"]["jacobian"]["search"] |= {
        "match_loss_of": None,
        "maximize": ["val/adv_accuracy", "val/accuracy"],
        "pick": {"best": "val/adv_accuracy", "within": {"val/accuracy": 0.003}},
    }
    store.write_text(store.study_file, text_with_checksum(dump(content)))
    with pytest.raises(
        Damaged, match=r"arms.jacobian.search.maximize: takes one metric.*; write maximize: val/adv_accuracy"
    ):
        store.load_study()
    store.check_setting(study())
    with pytest.raises(StoreError, match=r"training.epochs is 3 there, 4 here"):
        store.check_setting(study("training.epochs=4"))


def test_a_study_with_null_for_the_key_pick_is_read(store: Store) -> None:
    """Version 0.1.0 wrote it into every search."""
    store.save_study(study())
    content = yaml.safe_load(store.study_file.read_text())
    content["arms"]["jacobian"]["search"]["pick"] = None
    store.write_text(store.study_file, text_with_checksum(dump(content)))
    assert store.load_study() == resolve_study(study())


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
    [
        "seeds=[0, 1, 2]",
        "arms.jacobian.search.trials=9",
        "arms.another={method: adversarial}",
        "data.root=/elsewhere",
        "checks={images: 8}",
        "evaluation.steps=9",
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


@pytest.mark.parametrize("path", ["digits", "digits.yaml", "runs/digts"])
def test_a_path_that_is_no_store_is_refused_with_a_store_of_a_similar_name(path: str, tmp_path: Path) -> None:
    for name in ("digits", "mnist"):
        Store(tmp_path / "runs" / name).save_study(study())
    with pytest.raises(StoreError, match=rf"is no store .*; did you mean {tmp_path}/runs/digits\?"):
        Store(tmp_path / path).load_study()
    with pytest.raises(StoreError, match="`run` makes one"):
        Store(tmp_path / "cifar").load_study()


# -------------------------------------------------------------------- ledger
def test_records_are_sorted_and_found_by_their_items(store: Store) -> None:
    jobs = [trial(number, arm) for number in (2, 10, 1) for arm in ("b", "a")]
    for job in jobs:
        store.write_record(record_of(job, metrics={"train/loss": 1.0}))
    jobs.sort(key=lambda job: (job.arm, job.key))
    assert [(record["arm"], record["key"]) for record in store.records()] == [(job.arm, job.key) for job in jobs]
    assert store.read_record("a", jobs[0].models[0]) == store.records()[0]
    assert store.read_record("c", jobs[0].models[0]) is None


def test_only_finite_metrics_are_recorded() -> None:
    assert record_of(trial(), metrics={"a": 1.0, "b": float("nan"), "c": float("inf")})["metrics"] == {"a": 1.0}


def test_an_equal_training_gets_a_copy_of_the_record(store: Store) -> None:
    key, record = trial().key, record_of(trial(), seconds=5.0, spent={"train": 5.0})
    store.write_record(record)
    for arm, number in (("jacobian", 4), ("jacobian", None), ("other", None)):
        copy = store.write_copy(record, arm, number)
        assert copy == record | {"arm": arm, "number": number, "seconds": 0.0, "spent": {}}
        assert copy in store.records()
    names = (f"jacobian/{key}-4", f"jacobian/{key}-repeat", f"jacobian/{key}", f"other/{key}")
    assert files(store) == [f"ledger/{name}.json" for name in names]
    assert record in store.records()


@pytest.mark.parametrize("content", ["", "null", "{}", "[" * 9999, '{"sha256": NaN}'])
def test_a_damaged_record_is_named_and_the_others_are_read(store: Store, content: str) -> None:
    store.write_record(record_of(trial()))
    damaged_job = trial(1)
    path = store.record_file("jacobian", damaged_job.key)
    store.write_text(path, content)
    (record,), (damaged,) = store.read_ledger()
    assert (record["key"], damaged.path) == (trial().key, path)
    assert store.read_record("jacobian", damaged_job.models[0]) is None
    store.write_checked(path, {"arm": "jacobian", "state": "done"})
    assert "it lacks kind, key, seed" in str(store.read_ledger()[1][0])


def test_a_store_of_another_format_is_refused_with_the_remedy(store: Store) -> None:
    store.save_study(study())
    store.write_record(record_of(trial()) | {"format": FORMAT - 1})
    before = files(store)
    for read in (store.records, store.load_study, lambda: store.check_setting(study())):
        with pytest.raises(StoreError, match=f"format {FORMAT - 1}, this version reads and writes {FORMAT}; .*--store"):
            read()
    assert files(store) == before


def test_failures_are_deleted_and_records_set_aside_with_their_copies(store: Store) -> None:
    states: list[ledger.RecordState] = ["done", "failed", "diverged", "pruned", "failed"]
    for number, state in enumerate(states):
        store.write_record(record_of(trial(number), state))
    for number in (0, 1):
        store.write_copy(record_of(trial(number), states[number]), "jacobian", 9 + number)
    assert store.delete_failures() == 3
    assert store.delete_failures() == 0
    store.set_aside_records(trial().key)
    assert sorted(record["state"] for record in store.records()) == ["diverged", "pruned"]
    assert len(list((store.path / "damaged").rglob("*.json"))) == 2


# ------------------------------------------------------- jobs in progress
def test_a_job_in_progress_has_a_note_until_its_checkpoint_is_dropped(store: Store) -> None:
    jobs = [trial(number) for number in (3, 0, 11)]
    for job in jobs:
        store.note_start(job)
    (store.checkpoint_dir(jobs[0].key) / "epoch.safetensors").touch()
    assert store.read_notes() == ([jobs[1], jobs[0], jobs[2]], [])
    assert store.checkpoint_keys() == {job.key for job in jobs}
    store.drop_checkpoint(jobs[0].key)
    store.drop_checkpoint(jobs[0].key)
    store.write_checked(store.note_file(jobs[2].key), {})
    notes, (damaged,) = store.read_notes()
    assert (notes, damaged.path) == ([jobs[1]], store.note_file(jobs[2].key))


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(store: Store) -> None:
    store.note_start(trial())
    before = files(store)
    overview = store.tensorboard_dir / "events.out.tfevents.1"
    partial = store.path / "models" / ".0123456789abcdef.safetensors.x1.part"
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
        list(store.record_files())
