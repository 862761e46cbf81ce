"""A mirror holds whole files, restores what a store lacks, copies nothing twice, and is used by one machine."""

import os
import random
import shutil
from pathlib import Path

import pytest
from helpers import cli
from helpers.jobs import training_job
from helpers.mirrors import RECIPE, add_model, contents, make_store, mirror
from helpers.studies import parse_study

from tune_interpreg.store import lock
from tune_interpreg.store.bucket import Bucket, connect
from tune_interpreg.store.files import Refused, StoreError
from tune_interpreg.store.mirror import Mirror, attach, check_study
from tune_interpreg.store.mirror_notes import read_url
from tune_interpreg.store.store import Store

pytest.importorskip("obstore", reason="needs the extra mirror")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """The folder of the bucket."""
    return tmp_path / "bucket"


def tags(url: str) -> dict[str, str]:
    """Return path → tag, which changes when an object is written."""
    return {item.path: item.tag for item in Bucket(url).list() if not item.path.startswith("lease/")}


# ------------------------------------------------------------------- there and back
def test_an_empty_folder_becomes_the_mirrored_store(tmp_path: Path, url: str, bucket: Path) -> None:
    store = make_store(tmp_path / "store")
    store.set_aside_records("0" * 16)
    assert mirror(store, url)[-1].endswith("all files are there")
    assert contents(bucket) == contents(store.path)
    other = Store(tmp_path / "other")
    mirror(other, url)
    assert contents(other.path) == contents(store.path)
    assert other.records() == store.records()
    assert read_url(other) == url


@pytest.mark.parametrize("seed", range(4))
def test_any_missing_files_come_back_from_either_side(tmp_path: Path, url: str, bucket: Path, seed: int) -> None:
    """Also if the notes of the folder are lost."""
    store = make_store(tmp_path / "store", seeds=range(4))
    mirror(store, url)
    whole, choose = contents(store.path), random.Random(seed)
    here = choose.sample(sorted(whole), 5)
    there = choose.sample(sorted(whole.keys() - here), 5)
    for folder, paths in ((store.path, here), (bucket, there)):
        for path in paths:
            (folder / path).unlink()
    if seed % 2:
        store.mirror_file.unlink()
    mirror(store, url)
    assert contents(store.path) == contents(bucket) == whole


@pytest.mark.parametrize("has_notes", [True, False])
def test_no_file_is_written_again_that_has_its_content(tmp_path: Path, url: str, has_notes: bool) -> None:
    store = make_store(tmp_path / "store")
    mirror(store, url)
    before = tags(url)
    if not has_notes:
        store.mirror_file.unlink()
    for path in store.path.rglob("*.safetensors"):
        os.utime(path)
    mirror(store, url)
    stamps = {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()}
    assert tags(url) == before
    key = add_model(store, 7, b"new")
    mirror(store, url)
    new = {f"models/{key}.safetensors", f"ledger/arm/{key}.json"}
    after = tags(url)
    assert after.keys() - before.keys() == new
    assert before.items() <= after.items()
    kept = [path for path in stamps if path.name not in ("driver.lock", "mirror.jsonl")]
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: stamps[path] for path in kept}


def test_a_changed_file_replaces_its_copy(tmp_path: Path, url: str, bucket: Path) -> None:
    store = make_store(tmp_path / "store")
    mirror(store, url)
    add_model(store, 0, b"trained again")
    store.log_file.write_text("started\nstarted again\n")
    mirror(store, url)
    assert contents(bucket) == contents(store.path)


# --------------------------------------------------------------------------- damage
def test_a_damaged_file_is_named_and_gets_back_its_whole_copy(tmp_path: Path, url: str, bucket: Path) -> None:
    """One without a copy stays away from the mirror, with its record."""
    store = make_store(tmp_path / "store")
    mirror(store, url)
    whole = contents(bucket)
    first, second = (training_job(RECIPE, seed=seed).key for seed in (0, 1))
    new = store.model_file(add_model(store, 5, b"whole"))
    store.record_file("arm", first).write_text("{")
    store.model_file(second).write_bytes(b"half")
    store.study_file.write_text("arms: {}")
    new.write_bytes(b"half")
    lines = list[str]()
    with pytest.raises(Refused, match="is not complete"):
        mirror(store, url, lines=lines)
    assert lines[1] == "3 of them replaced older or damaged ones, which are in damaged/ now"
    assert contents(bucket) == whole
    assert whole.items() <= contents(store.path).items()
    new.write_bytes(b"whole")
    mirror(store, url)
    assert contents(bucket) == contents(store.path)


def test_a_damaged_object_is_named_and_not_copied_back(tmp_path: Path, url: str, bucket: Path) -> None:
    """A record without its model is that of a pruned model: a run that needs it trains again."""
    store = make_store(tmp_path / "store")
    mirror(store, url)
    first, second = (training_job(RECIPE, seed=seed).key for seed in (0, 1))
    model, record = bucket / f"models/{first}.safetensors", bucket / f"ledger/arm/{second}.json"
    model.write_bytes(model.read_bytes()[:-1])
    record.write_bytes(record.read_bytes()[:-9])
    other = Store(tmp_path / "other")
    lines = "\n".join(mirror(other, url))
    assert f"{url}/models/{first}.safetensors: is damaged" in lines
    assert f"{url}/ledger/arm/{second}.json: is damaged" in lines
    assert not other.model_file(first).exists()
    assert [record["key"] for record in other.records()] == [first]
    mirror(store, url)
    assert contents(bucket) == contents(store.path)


def test_a_lost_disk_empties_no_mirror(tmp_path: Path, url: str, bucket: Path) -> None:
    store, lines = make_store(tmp_path / "store"), list[str]()
    mirror(store, url)
    whole = contents(bucket)
    with lock.hold(store), attach(store, connect(url), lines.append) as attached:
        attached.restore()
        for path in store.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        attached.copy(final=True)
    assert contents(bucket) == whole


# ----------------------------------------------------------------------- during a run
@pytest.fixture
def attached(tmp_path: Path, url: str) -> Mirror:
    """The mirror of an otherwise finished store, in a run."""
    store = make_store(tmp_path / "store")
    with lock.hold(store), attach(store, connect(url), print) as attached:
        attached.restore()
        attached.copy(final=True)
        yield attached


def test_a_checkpoint_is_copied_and_its_copy_goes_with_the_job(attached: Mirror, bucket: Path) -> None:
    job, store = training_job(RECIPE, seed=3), attached.store
    store.note_start(job)
    for epoch in (b"one", b"two"):
        store.write_bytes(store.checkpoint_dir(job.key) / "epoch.safetensors", epoch)
        store.record_worker(job.key)
        attached.copy()
        folder = bucket / "checkpoints" / job.key
        assert (folder / "epoch.safetensors").read_bytes() == epoch
        assert sorted(path.name for path in folder.iterdir()) == ["epoch.safetensors", "job.json"]
    store.drop_checkpoint(job.key)
    attached.copy()
    assert not [path for path in contents(bucket) if job.key in path]
    assert [path for path in contents(bucket) if path.startswith("checkpoints/")], "of the job that is open"


def test_maps_under_way_are_not_copied_because_they_change_in_place(attached: Mirror, bucket: Path) -> None:
    job, store = training_job(RECIPE, seed=4), attached.store
    store.note_start(job)
    store.write_checked(store.checkpoint_dir(job.key) / "progress.json", {"blocks": []})
    store.write_bytes(store.checkpoint_dir(job.key) / "maps.npy", b"maps")
    attached.copy(final=True)
    assert [path.rpartition("/")[2] for path in contents(bucket) if job.key in path] == ["job.json"]


def test_a_growing_file_is_copied_when_it_rests_or_the_run_ends(attached: Mirror, bucket: Path) -> None:
    log, copy = attached.store.log_file, bucket / "run.log"
    for text in ("started\na", "started\nab", "started\nabc"):
        log.write_text(text)
        attached.copy()
        assert copy.read_text() == "started\n"
    attached.copy()
    assert copy.read_text() == "started\nabc"
    log.write_text("started\nabcd")
    attached.store.journal.write_text("{}\n")
    attached.copy(final=True)
    assert contents(bucket) == contents(attached.store.path)


# --------------------------------------------------------------- two stores, one mirror
def test_the_store_that_had_the_mirror_last_wins(tmp_path: Path, url: str) -> None:
    """The first store's own version is set aside, and what only it has is copied."""
    first, second = make_store(tmp_path / "first"), Store(tmp_path / "second")
    mirror(first, url)
    mirror(second, url)
    key = add_model(second, 1, b"of the second")
    mirror(second, url)
    add_model(first, 1, b"of the first")
    only = add_model(first, 8, b"of the first only")
    for _ in range(2):  # runs that are killed before they have restored anything
        with lock.hold(first), attach(first, connect(url), print) as attached:
            assert attached.is_behind
    lines = mirror(first, url)
    assert "2 of them replaced older or damaged ones, which are in damaged/ now" in lines
    assert first.model_file(key).read_bytes() == b"of the second"
    assert (first.path / "damaged" / "models" / f"{key}.safetensors").read_bytes() == b"of the first"
    with lock.hold(first), attach(first, connect(url), print) as attached:
        assert not attached.is_behind
    mirror(second, url)
    assert contents(first.path) == contents(second.path)
    assert second.model_file(only).exists()


def test_another_study_or_format_is_refused_before_anything_is_written(tmp_path: Path, url: str, bucket: Path) -> None:
    mirror(make_store(tmp_path / "store"), url)
    before = contents(bucket)
    study = parse_study("{training: {epochs: 7}, arms: {arm: {method: standard}}}")
    with pytest.raises(StoreError, match=f"^--mirror {url}: was made by another study: .*epochs.*--mirror"):
        check_study(connect(url), study)
    file = tmp_path / "study.yaml"
    file.write_text("{data: digits, training: {epochs: 7}, arms: {arm: {method: standard}}}")
    message = cli.refusal("run", str(file), "--store", str(tmp_path / "new"), "--mirror", url)
    assert "was made by another study" in message
    assert not (tmp_path / "new").exists()
    assert contents(bucket) == before
    assert not list((bucket / "lease").glob("t*"))


def test_prune_deletes_in_the_mirror_too(tmp_path: Path, url: str, bucket: Path) -> None:
    """Otherwise the files came back. A store that is older than its mirror knows too little to delete there."""
    store, other = make_store(tmp_path / "store", seeds=(50, 51)), Store(tmp_path / "other")
    mirror(store, url)
    mirror(other, url)
    assert f"{store.path}: is older than its mirror" in cli.refusal("prune", str(store.path), "--yes")
    mirror(store, url)
    models = {path for path in contents(bucket) if path.startswith("models/")}
    assert len(models) == 2, "of seeds that the study does not have"
    cli.output("prune", str(store.path), "--yes")
    assert not models & contents(bucket).keys()
    mirror(store, url)
    assert contents(bucket) == contents(store.path)
    shutil.rmtree(bucket)
    bucket.write_text("a file")
    add_model(store, 52, b"surplus")
    assert str(store.mirror_file) in cli.refusal("prune", str(store.path), "--yes")


# -------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bucket/path", ["takes a URL", "s3://"]),
        ("ftp://host/path", ["takes a URL", "s3://"]),
        ("s3://", ["takes a URL"]),
        ("s3://bucket/a b", ["takes a URL"]),
        ("file://relative/path", ["absolute"]),
        ("file:///no/such/place", ["/no/such is no folder"]),
        ("file:///proc/new", ["check the URL"]),
        ("az://container/path", ["ccount must be specified", "AZURE_STORAGE_ACCOUNT_NAME"]),
    ],
)
def test_a_wrong_url_is_refused_with_place_rule_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, parts: list[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "study.yaml"
    file.write_text("{data: digits, arms: {arm: {method: standard}}}")
    message = cli.refusal("run", str(file), "--store", str(tmp_path / "store"), "--mirror", text)
    assert message.startswith(f"error: --mirror {text}: ")
    assert all(part in message for part in parts), message
    assert not (tmp_path / "store").exists()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_interpreg.store.bucket.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r'pip install "tune-interpreg\[mirror\]"'):
        connect("s3://bucket")


def test_a_run_without_the_mirror_says_that_there_is_one(tmp_path: Path, url: str) -> None:
    from tune_interpreg.store.mirror import mirrored

    store, lines = make_store(tmp_path / "store"), list[str]()
    with mirrored(store, None, lines.append):
        assert lines == []
    mirror(store, url)
    with mirrored(store, None, lines.append):
        assert lines == [f"this run does not update the store's mirror; --mirror {url} does"]
