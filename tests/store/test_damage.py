"""The start of a run sets damaged files aside and makes them again; the study ends with the same results.

Workers answer with the closed form of ``closed_form`` and leave small files in place of models and maps. The last
tests train small networks.
"""

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from helpers.closed_form import ARMS, Leaving, outcome, steps, study, trainings
from helpers.in_process import TEACHER, run_study
from helpers.jobs import training_job

from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data, Study, Training
from tune_interpreg.study.items import Job
from tune_interpreg.study.recipe import Recipe

NAMES = ("adversarial", "robust", "jacobian")
Spoil = Callable[[Path], object]


def drain(plan: Study, store: Store, *, workers: int = 1) -> tuple[list[Job], list[str]]:
    """Run a study to its end. Return the jobs that ran, in order, and the messages for the user."""
    messages: list[str] = []
    return list(steps(Dispatcher(plan, store, "f", messages.append), Leaving(store), workers=workers)), messages


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("finished") / "store")
    drain(study(*NAMES), made)
    return made


@pytest.fixture
def copy(finished: Store, tmp_path: Path) -> Store:
    return Store(shutil.copytree(finished.path, tmp_path / "copy"))


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ------------------------------------------------- records, notes, choices, journal
@pytest.mark.parametrize(
    ("arm", "kind", "is_trial"),
    [
        ("adversarial", "train", False),
        ("adversarial", "maps", False),
        ("adversarial", "judge", False),
        ("robust", "train", True),
        ("jacobian", "train", True),
    ],
)
def test_the_item_of_a_damaged_record_runs_again_as_it_was(
    copy: Store, finished: Store, arm: str, kind: str, is_trial: bool
) -> None:
    """Also a proposal, although Optuna would propose something else after the later trials."""
    record = next(
        record
        for record in copy.records()
        if (record["arm"], record["kind"]) == (arm, kind) and is_trial == (record.get("number") is not None)
    )
    path = copy.record_file(arm, record["key"])
    flip(path)
    (job,), (message,) = drain(study(*NAMES), copy)
    stage = {"train": "search" if is_trial else "repeats", "maps": "maps", "judge": "judgments"}[kind]
    assert (job.arm, job.stage, job.items[0].key) == (arm, stage, path.stem)
    assert message.startswith(f"{path}: is damaged")
    assert f"damaged/ledger/{arm}/{path.name}" in message
    assert outcome(copy) == outcome(finished)


def test_repeats_wait_for_the_choice_that_needs_a_damaged_record(copy: Store, finished: Store) -> None:
    repeats = Dispatcher(study(*NAMES), copy, "f").progress.repeats
    for arm in ("robust", "jacobian"):
        for repeat in repeats[arm].values():
            flip(copy.record_file(arm, repeat["key"]))
    ran, _ = drain(study(*NAMES), copy, workers=9)
    assert [job.arm for job in ran] == ["robust", "robust", "jacobian", "jacobian"]
    assert outcome(copy) == outcome(finished)


def test_the_job_of_a_damaged_note_starts_again(store: Store) -> None:
    plan, messages = study("adversarial"), list[str]()
    job = next(steps(Dispatcher(plan, store, "f")))
    flip(store.note_file(job.key))
    assert job in list(steps(Dispatcher(plan, store, "f", messages.append), Leaving(store)))
    assert messages[0].startswith(f"{store.note_file(job.key)}: is damaged")


def test_a_damaged_journal_is_made_again_from_the_ledger(copy: Store, finished: Store) -> None:
    lines = copy.journal.read_bytes().splitlines(keepends=True)
    copy.journal.write_bytes(b"".join([*lines[:5], b"\xff{garbage\n", *lines[5:]]))
    more = study("adversarial", "jacobian", robust=ARMS["robust"].replace("trials: 6", "trials: 7"))
    whole = Store(shutil.copytree(finished.path, copy.path.with_name("whole")))
    ran, messages = drain(more, copy)
    assert messages[0].startswith(f"{copy.journal}: is damaged")
    assert ran == drain(more, whole)[0]


# --------------------------------------------------------------- models and maps
PUPIL = study("adversarial", "robust", seeds="[0]")

#: Files → the stage of the jobs that read them, and of the jobs that make them.
INPUTS = {
    "models/*": ("maps", "repeats"),
    "targets/*.npy": ("search", "maps"),
    "targets/*.s*": ("search", "maps"),
}


def start_until(stage: str, plan: Study, store: Store) -> tuple[Dispatcher, Job]:
    """Run a study until the first job of a stage has just started."""
    dispatcher = Dispatcher(plan, store, "f")
    return dispatcher, next(job for job in steps(dispatcher, Leaving(store)) if job.stage == stage)


@pytest.mark.parametrize("spoil", [flip, Path.unlink])
@pytest.mark.parametrize("pattern", INPUTS)
def test_a_damaged_input_is_made_again_before_it_is_read(store: Store, pattern: str, spoil: Spoil) -> None:
    reads, makes = INPUTS[pattern]
    start_until(reads, PUPIL, store)
    (path,) = store.path.glob(pattern)
    spoil(path)
    ran, (message,) = drain(PUPIL, store)
    assert [job.stage for job in ran][:2] == [makes, reads]
    assert message.startswith(f"{path}: is {'damaged' if spoil is flip else 'missing'}")
    keys = [item.key for job in ran for item in job.items]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("pattern", INPUTS)
def test_an_item_with_an_input_damaged_in_a_run_fails_and_the_next_run_repeats_it(store: Store, pattern: str) -> None:
    reads, makes = INPUTS[pattern]
    dispatcher, reader = start_until(reads, PUPIL, store)
    (path,) = store.path.glob(pattern)
    flip(path)
    dispatcher.fail(reader, "unreadable")
    record = store.read_record(reader.arm, reader.items[0])
    assert record is not None
    assert record["error"].startswith(f"{path}: is damaged")
    assert "run again" in record["error"]
    ran, _ = drain(PUPIL, store)
    assert [job.stage for job in ran][:2] == [makes, reads]
    assert reader in ran
    assert {record["state"] for record in store.records()} == {"done"}


def test_a_model_of_two_arms_is_made_again_once(store: Store) -> None:
    plan = study("adversarial", "robust", seeds="[0]", again="{method: adversarial}")
    start_until("maps", plan, store)
    flip(next(store.path.glob("models/*")))
    ran, messages = drain(plan, store)
    teacher = store.records()[0]["model"]
    assert trainings(ran).count(teacher) == len(messages) == 1
    assert [record["key"] for record in store.records() if record["kind"] == "train"].count(teacher) == 2
    dispatcher = Dispatcher(plan, store, "f")
    assert dispatcher.settled() == dispatcher.total()


# ------------------------------------------------------------------- real workers
FIRST = "  first: {method: interpretation, lambda: 0.1, targets: {teacher: adversarial, samples: 2}}\n"
SECOND = FIRST.replace("first", "second").replace("0.1", "0.2")


@pytest.mark.ray
def test_a_training_with_a_damaged_checkpoint_starts_again_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.base.trainable import CHECKPOINT
    from tune_interpreg.cluster.worker import StudyTrainable, worker_config

    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    data = Data(train_limit=64, validation=20, test_limit=20)
    recipe = Recipe(method="standard", data=data, training=Training(epochs=3, batch_size=32, lr=0.05))
    job = training_job(recipe)
    store, whole = Store(tmp_path / "store"), Store(tmp_path / "whole")

    def train(store: Store, epochs: int) -> list[dict]:
        worker = StudyTrainable(worker_config(job, store, "cpu"))
        return [worker.step() for _ in range(epochs)]

    train(store, 2)
    path = store.checkpoint_dir(job.key) / CHECKPOINT
    flip(path)
    first, *_, last = train(store, 3)
    assert first["epoch"] == 1
    assert first["warning"].startswith(f"{path}: is damaged")
    assert "warning" not in last
    (record,), (expected,) = json.loads(last["records"]), json.loads(train(whole, 3)[-1]["records"])
    for name in ("key", "state", "metrics", "curve", "epochs"):
        assert record[name] == expected[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("trained") / "store")
    run_study(store, TEACHER + FIRST)
    return store


@pytest.mark.ray
@pytest.mark.parametrize(
    ("pattern", "spoil", "samples"),
    [("targets/*.npy", Path.unlink, 2), ("targets/*.preview.s*", truncate, 2), ("models/{teacher}.*", flip, 1)],
)
def test_damaged_models_and_maps_are_made_again_with_the_same_bits(
    trained: Store, tmp_path: Path, pattern: str, spoil: Spoil, samples: int
) -> None:
    """The second arm reads the same maps as the first, or needs other maps of the teacher."""
    store = Store(shutil.copytree(trained.path, tmp_path / "store"))
    teacher = store.records()[0]["model"]
    (path,) = store.path.glob(pattern.format(teacher=teacher))
    spoil(path)
    printed = run_study(store, TEACHER + FIRST + SECOND.replace("samples: 2", f"samples: {samples}"))
    assert f"{path}: is {'missing' if spoil is Path.unlink else 'damaged'}" in printed
    assert path.read_bytes() == (trained.path / path.relative_to(store.path)).read_bytes()
    kinds = [record["kind"] for record in store.records()]
    assert (kinds.count("train"), kinds.count("maps")) == (3, 3 - samples)
    assert {record["state"] for record in store.records()} == {"done"}


class DyingWorker(StringIO):
    """The output of a run. At its first line, a worker dies while it writes a record."""

    def __init__(self, store: Store):
        super().__init__()
        self.leftover = store.path / "ledger" / "adversarial" / ".0123456789abcdef.json-0.part"

    def write(self, text: str) -> int:
        if "adversarial" not in self.getvalue():
            self.leftover.parent.mkdir(parents=True, exist_ok=True)
            self.leftover.touch()
        return super().write(text)


@pytest.mark.ray
def test_the_end_of_a_run_removes_what_its_dead_workers_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    output = DyingWorker(store)
    run_study(store, TEACHER, output)
    assert "adversarial" in output.getvalue()
    assert list(store.path.rglob("*.part")) == []
