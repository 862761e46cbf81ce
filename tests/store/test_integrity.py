"""Nothing is ever lost: what is damaged in a store is named, set aside and made anew, and the study ends the same.

Workers answer by the closed form of ``closed_form``, and leave small files in place of models and maps.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.closed_form import ARMS, Leaving, outcome, steps, study
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.inputs import REMAKES
from tune_interpreg.store.files import CHECKSUM, Damaged, file_checksum, read_checked, with_checksum
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item

NAMES = ("adversarial", "robust", "jacobian")


def drained(of: Study, store: Store, spoils: str = "nothing", *, workers: int = 1) -> tuple[list[Item], list[str]]:
    """What ran, in order, and what the user was told."""
    told: list[str] = []
    answer = Leaving(store, spoils)
    list(steps(Dispatcher(of, store, "f", told.append), answer, workers=workers))
    return answer.ran, told


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("finished") / "store")
    drained(study(*NAMES), made)
    return made


@pytest.fixture
def copy(finished: Store, tmp_path: Path) -> Store:
    return Store(shutil.copytree(finished.path, tmp_path / "copy"))


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def first_record(store: Store, arm: str, role: str) -> Path:
    record = next(one for one in store.records() if (one["arm"], one["role"]) == (arm, role))
    return store.record_file(arm, record["key"])


# ----------------------------------------------------------------------- seals
@given(st.dictionaries(st.text(), st.recursive(st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists)))
@settings(max_examples=30, deadline=None)
def test_what_is_sealed_is_read_back(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    content.pop(CHECKSUM, None)
    path = tmp_path_factory.mktemp("sealed") / "file.json"
    path.write_text(json.dumps(with_checksum(content)))
    assert read_checked(path) == content


def test_numbers_as_keys_are_sealed_as_json_has_them(store: Store) -> None:
    store.write_checked(store.path / "file.json", {"by seed": {10: 1.5, 9: 2}})
    assert read_checked(store.path / "file.json") == {"by seed": {"10": 1.5, "9": 2}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": 2, "sha256": "', "it is no JSON"),
        ("\udcff", "it is no text"),
        ('{"a": 1}', "it has no checksum"),
        ("[1]", "it has no checksum"),
        ('{"a": 1, "sha256": "00"}', "it has another checksum than its own"),
        ("[" * 9999, "it is no JSON"),
    ],
)
def test_what_is_not_sealed_is_damaged(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(Damaged, match=f"{path}: is damaged: {reason}"):
        read_checked(path)


def test_a_file_that_changed_is_read_again_and_one_that_did_not_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first, known = file_checksum(path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert file_checksum(path) == first
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns + 1))
    assert file_checksum(path) != first


def test_a_damaged_file_is_moved_under_its_own_path_and_never_replaces_another(store: Store) -> None:
    path = store.record_file("arm", "key")
    for content in ("first", "second", "third"):
        store.write_text(path, content)
        told = store.set_aside(Damaged(path, "is damaged"))
    kept = sorted((store.path / "damaged" / "ledger" / "arm").iterdir())
    assert [file.name for file in kept] == ["key.json", "key.json.1", "key.json.2"]
    assert [file.read_text() for file in kept] == ["first", "second", "third"]
    assert told == f"{path}: is damaged; set aside as damaged/ledger/arm/key.json.2"
    assert store.set_aside(Damaged(path, "is missing")) == f"{path}: is missing"


# ------------------------------------------------------------- records and notes
@pytest.mark.parametrize(
    ("arm", "role"), [("adversarial", "repeat"), ("adversarial", "targets"), ("jacobian", "search")]
)
def test_a_damaged_record_is_told_and_its_item_runs_again(copy: Store, finished: Store, arm: str, role: str) -> None:
    path = first_record(copy, arm, role)
    flip(path)
    ran, told = drained(study(*NAMES), copy)
    assert [(item.arm, item.role, item.key) for item in ran] == [(arm, role, path.stem)]
    assert len(told) == 1
    assert f"{path}: is damaged" in told[0]
    assert f"set aside as damaged/ledger/{arm}/{path.name}; its item runs again" in told[0]
    assert outcome(copy) == outcome(finished)


def test_a_lost_proposal_is_made_again_as_it_was(copy: Store, finished: Store) -> None:
    """Optuna would propose something else for the first trial, now that it knows the later ones."""
    path = first_record(copy, "robust", "search")
    path.write_text("")
    ran, _ = drained(study(*NAMES), copy)
    assert [item.key for item in ran] == [path.stem]
    assert outcome(copy) == outcome(finished)


def test_the_record_of_the_only_reference_is_waited_for(copy: Store, finished: Store) -> None:
    """The loss that others matched is away for a while: none of their repeats starts without its choice."""
    for record in finished.records():
        if (record["arm"], record["role"]) in (("robust", "repeat"), ("jacobian", "repeat")):
            flip(copy.record_file(record["arm"], record["key"]))
    ran, _ = drained(study(*NAMES), copy, workers=9)
    assert [item.arm for item in ran] == ["robust", "robust", "jacobian", "jacobian"]
    assert outcome(copy) == outcome(finished)


def test_a_damaged_choice_is_made_again(copy: Store, finished: Store) -> None:
    path = copy.choice_file("jacobian")
    flip(path)
    ran, told = drained(study(*NAMES), copy)
    assert ran == []
    assert "jacobian's search chooses again" in " ".join(told)
    assert path.read_bytes() == finished.choice_file("jacobian").read_bytes()


def test_a_damaged_note_is_told_and_its_item_starts_anew(store: Store) -> None:
    of, told = study("adversarial"), list[str]()
    (begun,) = [next(steps(Dispatcher(of, store, "f")))]
    note = store.checkpoint_dir(begun.key) / "item.json"
    flip(note)
    assert begun in list(steps(Dispatcher(of, store, "f", told.append), Leaving(store)))
    assert told[0].startswith(f"{note}: is damaged")


def test_a_journal_that_optuna_cannot_read_is_made_again_from_the_ledger(copy: Store, finished: Store) -> None:
    lines = copy.journal.read_bytes().splitlines(keepends=True)
    copy.journal.write_bytes(b"".join([*lines[:5], b"\xff{garbage\n", *lines[5:]]))
    more = study("adversarial", "jacobian", robust=ARMS["robust"].replace("trials: 6", "trials: 7"))
    whole = Store(shutil.copytree(finished.path, copy.path.with_name("whole")))
    ran, told = drained(more, copy)
    assert "is damaged: Optuna cannot read it" in told[0]
    assert "made anew from the ledger" in told[0]
    assert ran == drained(more, whole)[0]


# --------------------------------------------------------------- models and maps
PUPIL = study("adversarial", "robust", seeds="[0]")
NEEDED = {
    "models/*/*": ("targets", "repeat"),
    "targets/*.npy": ("search", "targets"),
    "targets/*.s*": ("search", "targets"),
}


def until(role: str, store: Store) -> tuple[Dispatcher, Item]:
    """A study whose first item of ``role`` has just started."""
    dispatcher = Dispatcher(PUPIL, store, "f")
    return dispatcher, next(item for item in steps(dispatcher, Leaving(store)) if item.role == role)


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("files", NEEDED)
def test_a_damaged_input_is_made_again_before_it_is_used(store: Store, files: str, gone: bool) -> None:
    """The item that made it runs again; whoever needs it waits."""
    needs, makes = NEEDED[files]
    until(needs, store)
    (path,) = store.path.glob(files)
    path.unlink() if gone else flip(path)
    ran, told = drained(PUPIL, store)
    assert [item.role for item in ran][:2] == [makes, needs]
    assert told[0].startswith(f"{path}: is {'missing' if gone else 'damaged'}")
    assert told[0].endswith("; it is made anew")
    assert len(told) == 1
    assert len({item.key for item in ran}) == len(ran)


@pytest.mark.parametrize("files", NEEDED)
def test_an_item_that_failed_for_a_damaged_input_runs_again_as_it_was(store: Store, files: str) -> None:
    needs, makes = NEEDED[files]
    dispatcher, failed = until(needs, store)
    flip(next(store.path.glob(files)))
    assert dispatcher.fail(failed, "unreadable") is None
    ran = list(steps(dispatcher, Leaving(store)))
    assert [item.role for item in ran][:2] == [makes, needs]
    assert failed in ran
    assert {record["state"] for record in store.records()} == {"done"}
    assert dispatcher.settled() == dispatcher.total() == len(store.records())


def test_an_item_that_failed_by_itself_is_failed(store: Store) -> None:
    dispatcher, failed = until("search", store)
    record = dispatcher.fail(failed, "its own fault")
    assert record is not None
    assert (record["state"], record["error"]) == ("failed", "its own fault")


def test_a_file_that_does_not_stay_whole_is_given_up(store: Store) -> None:
    """The same artifact is made anew a few times, then who needs it fails, and says why."""
    ran, told = drained(PUPIL, store, spoils=".npy")
    made = [item for item in ran if item.role == "targets"]
    assert len(made) == 1 + REMAKES == 1 + len(told)
    failed = [record for record in store.records() if record["state"] == "failed"]
    assert {record["role"] for record in failed} == {"search"}
    assert ".npy: is damaged" in failed[0]["error"]
    assert failed[0]["error"].endswith("it does not stay whole: check the disk")


def test_arms_that_share_a_model_have_it_made_again_once(store: Store) -> None:
    twin = study("adversarial", "robust", seeds="[0]", again="{method: adversarial}")
    dispatcher = Dispatcher(twin, store, "f")
    next(item for item in steps(dispatcher, Leaving(store)) if item.role == "targets")
    flip(next(store.path.glob("models/*/*")))
    ran, told = drained(twin, store)
    assert [item.role for item in ran].count("repeat") == 2
    assert len(told) == 1
    assert len(store.records()) == Dispatcher(twin, store, "f").total()
