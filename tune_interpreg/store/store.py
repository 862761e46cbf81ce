"""The store of a study: checked reading and atomic writing of every file in its folder.

``paths`` shows the folder. Records, choices and notes contain their checksums (see ``files``). A record lists the
checksums of the files that its item made. The start of a run sets damaged files aside and makes them again.
"""

import difflib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from tune_interpreg.store import files
from tune_interpreg.store.files import Damaged, Refused, StoreError
from tune_interpreg.store.paths import Layout
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.yaml_text import dump
from tune_interpreg.study.items import Item, Job
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.recipe import FORMAT

Record = dict[str, Any]

#: States of a record that no repetition changes.
FINAL = ("done", "diverged")

T = TypeVar("T")

#: Keys of every record.
FIELDS = ("kind", "key", "arm", "seed", "state", "metrics", "images")


def read_record_file(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        Damaged: it differs from what was written, or is no record.
        StoreError: a version with another ``FORMAT`` wrote it.
    """
    record = files.read_checked(path)
    if record.get("format", FORMAT) != FORMAT:
        theirs, store = record["format"], path.parents[2]
        remedy = "name another folder with --store, or use the version that made it"
        raise StoreError(f"{store}: its records have format {theirs}, this version reads and writes {FORMAT}; {remedy}")
    if missing := [name for name in FIELDS if name not in record]:
        raise Damaged(path, f"is no ledger record: it lacks {', '.join(missing)}")
    return record


class Store(Layout):
    """The folder of a study's results. The constructor neither reads nor writes.

    driver: signature of this object's run. After another run signs the store, every write raises ``Refused``.
    Raises ``StoreError`` if the path is not UTF-8.
    """

    def __init__(self, path: str | Path, driver: str | None = None):
        super().__init__(path)
        self.driver = driver
        if not files.is_utf8(path):
            raise StoreError(
                f"{os.fsencode(self.path)!r}: is not UTF-8; rename it, or name another folder with --store"
            )

    # ----------------------------------------------------------------- writing
    @contextmanager
    def replace_atomically(self, path: Path) -> Iterator[Path]:
        """Yield a temporary file that replaces ``path``, unless another driver has taken over the store."""
        with files.replace_atomically(path) as temporary:
            yield temporary
            self.check_driver()

    def write_bytes(self, path: Path, content: bytes) -> None:
        with self.replace_atomically(path) as temporary:
            temporary.write_bytes(content)

    def write_text(self, path: Path, text: str) -> None:
        """Write text as UTF-8. The bytes of a file's name that are not UTF-8 become escapes, which JSON reads back."""
        self.write_bytes(path, text.encode("utf-8", "backslashreplace"))

    def write_json(self, path: Path, content: Any) -> None:
        self.write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def write_checked(self, path: Path, content: dict[str, Any]) -> None:
        """Write JSON with a checksum; ``files.read_checked`` reads it."""
        self.write_json(path, files.with_checksum(content))

    def checksums(self, *paths: Path) -> dict[str, str]:
        """Return path in the store → checksum, for the record of the item that made the files."""
        return {path.relative_to(self.path).as_posix(): files.file_checksum(path) for path in paths}

    def set_aside(self, damaged: Damaged) -> str:
        """Move a damaged file to the same path below ``damaged/``. Return a message for the user."""
        self.check_driver()
        message = f"{damaged.path}: {damaged.reason}"
        if not damaged.path.exists():
            return message
        target = first = self.path / "damaged" / damaged.path.relative_to(self.path)
        number = 0
        while target.exists():
            number += 1
            target = first.with_name(f"{first.name}.{number}")
        target.parent.mkdir(parents=True, exist_ok=True)
        damaged.path.rename(target)
        return f"{message}; set aside as {target.relative_to(self.path)}"

    def remove_leftovers(self) -> None:
        """Delete temporary files, locks and Tune's files of runs and workers that were killed."""
        self.check_driver()
        overviews = self.tensorboard_dir.glob("events.*")  # of an older version
        for path in (*self.path.rglob(".*.part"), *self.path.glob(f"{self.journal.name}.lock*"), *overviews):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.tune_dir, ignore_errors=True)

    def check_access(self) -> None:
        """Raise ``StoreError`` if a folder of the store cannot be read and written."""
        for folder in (self.path, *self.path.glob("*/"), *self.path.glob("ledger/*/")):
            try:
                os.listdir(folder)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                remedy = "make it readable and writable, or name another folder with --store"
                raise StoreError(f"{folder}: cannot be read and written ({error.strerror}); {remedy}") from None

    def read_driver(self) -> dict[str, Any]:
        """Return the signature of the last driver (see ``lock.sign``); empty if it cannot be read."""
        return _read_object(self.driver_file)

    def check_driver(self) -> None:
        """Raise ``Refused`` if another driver has signed the store since."""
        if self.driver is not None and self.read_driver().get("id", self.driver) != self.driver:
            raise Refused(f"{self.path}: another run has taken it over; this one writes nothing more")

    # ------------------------------------------------------------------- study
    def check_setting(self, study: Study) -> None:
        """Raise ``StoreError`` if the store holds models of another setting or format. Writes nothing.

        More arms, seeds, trials or measures are the same study; another setting is another study.
        """
        self.check_format()
        if not self.study_file.exists():
            is_begun = self.driver_file.exists() or self.mirror_file.exists()
            if self.path.exists() and not is_begun and not self.is_unused():
                raise StoreError(f"{self.path}: is no store and not empty; name an empty folder with --store")
            return
        there, here = flatten(self.load_study(searches=False).setting()), flatten(study.setting())
        differing = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
        if differing:
            pairs = "; ".join(f"{key} is {there.get(key)!r} there, {here.get(key)!r} here" for key in differing)
            remedy = "Name another folder with --store, or restore the setting"
            raise StoreError(f"{self.path}: was made by another study: {pairs}. {remedy}")

    def check_format(self) -> None:
        """Raise ``StoreError`` if a version with another ``FORMAT`` made the store, by one intact record."""
        for path in self.record_files():
            with suppress(Damaged):
                read_record_file(path)
                return

    def is_unused(self) -> bool:
        """Return whether the folder holds only what a driver leaves that was killed at its start."""
        names = (self.lock_file.name, self.log_file.name)
        return self.path.is_dir() and all(path.name in names or path.suffix == ".part" for path in self.path.iterdir())

    def save_study(self, study: Study) -> None:
        """Write the study with all defaults, so that readers do not need the methods' code."""
        text = dump(resolve_study(study).model_dump(mode="json"))
        self.write_text(self.study_file, files.text_with_checksum(text))

    def load_study(self, *, searches: bool = True) -> Study:
        """Return the study of the last run.

        searches: False to leave searches out, which an earlier version may have written with keys that are gone.

        Raises:
            StoreError: there is none, or a version with another ``FORMAT`` wrote it.
            Damaged: its file changed.
        """
        with files.raise_refused(self.path):
            self.check_format()
            if not self.study_file.exists():
                raise StoreError(f"{self.path}: is no store (it has no study.yaml); {self._suggest_store()}")
            try:
                content = yaml.safe_load(files.read_checked_text(self.study_file))
                for arm in () if searches else content["arms"].values():
                    arm.pop("search", None)
                return Study.model_validate(content)
            except (Damaged, yaml.YAMLError, ValidationError) as error:
                reason = error.reason if isinstance(error, Damaged) else _one_line(error)
                raise Damaged(self.study_file, f"cannot be read as a study: {reason}") from None

    def _suggest_store(self) -> str:
        """Return the remedy for a path that is no store: a store next to it or in runs with a name like its own."""
        folders = (self.path.parent, self.path.parent / "runs")
        stores = [file.parent for folder in folders for file in folder.glob("*/study.yaml")]
        near = difflib.get_close_matches(self.path.stem, [store.name for store in stores], n=1)
        return next((f"did you mean {store}?" for store in stores if [store.name] == near), "`run` makes one")

    # ------------------------------------------------------------------ ledger
    def write_record(self, record: Record) -> None:
        self.write_checked(self.record_file(record["arm"], record["key"]), record)

    def write_copy(self, record: Record, arm: str, number: int | None) -> Record:
        """Write and return a copy of a training's ``record`` for another arm or number, which took no time."""
        copy = record | {"arm": arm, "number": number, "seconds": 0.0, "spent": {}}
        exists = self.record_file(arm, record["key"]).exists()
        name = f"{record['key']}-{'repeat' if number is None else number}" if exists else record["key"]
        self.write_checked(self.record_file(arm, name), copy)
        return copy

    def records(self) -> list[Record]:
        """Return all intact records, sorted by arm, kind, seed and key."""
        return self.read_ledger()[0]

    def read_ledger(self, read: Callable[[Path], Record] = read_record_file) -> tuple[list[Record], list[Damaged]]:
        """Return all intact records, sorted as in ``records``, and the damaged files.

        Raises ``StoreError`` if a version with another ``FORMAT`` made the store.
        """
        records, damaged = _read_all(self.record_files(), read)
        return sorted(records, key=_ledger_order), sorted(damaged, key=attrgetter("path"))

    def read_record(self, arm: str, item: Item) -> Record | None:
        """Return the record that the item's worker has written, or None if it is missing or damaged."""
        try:
            return read_record_file(self.record_file(arm, item.key))
        except Damaged:
            return None

    def delete_failures(self) -> int:
        """Delete the records of failed items, so that they run again. Return their number."""
        states, _ = _read_all(self.record_files(), lambda path: (path, read_record_file(path)["state"]))
        failed = [path for path, state in states if state == "failed"]
        for path in failed:
            path.unlink()
        return len(failed)

    def set_aside_records(self, key: str) -> None:
        """Set aside the records of the item ``key``, because a file that it made is damaged."""
        for path in list(self.record_files()):
            if self.key_of(path) == key:
                self.set_aside(Damaged(path, "is of an item with damaged files"))

    def read_choice(self, arm: str) -> dict[str, Any] | None:
        """Return the choice of the arm's search (the fields of ``choice.Choice``), or None before it ends."""
        path = self.choice_file(arm)
        return files.read_checked(path) if path.exists() else None

    # -------------------------------------------------------- jobs in progress
    def note_start(self, job: Job) -> None:
        """Write a note of the job before it starts, so that a later run can resume it."""
        self.write_checked(self.note_file(job.key), job.model_dump(mode="json"))

    def read_notes(self) -> tuple[list[Job], list[Damaged]]:
        """Return the jobs that started and did not finish, by arm and parts, and the damaged notes."""
        jobs, damaged = _read_all(self.path.glob("checkpoints/*/job.json"), _read_note)
        return sorted(jobs, key=attrgetter("arm", "parts")), damaged

    def record_worker(self, key: str) -> None:
        """Record that this process works on the job ``key``, for ``status``.

        Informational only: no checksum, no fsync. A missing folder stays missing: another run has finished the job.
        """
        worker = {"host": socket.gethostname(), "pid": os.getpid(), "driver": self.driver}
        with suppress(OSError):
            self.worker_file(key).write_text(json.dumps(worker), encoding="utf-8")

    def read_worker(self, key: str) -> dict[str, Any]:
        """Return host, pid and driver of the job's worker; empty before it starts, or if the file cannot be read."""
        return _read_object(self.worker_file(key))

    def drop_checkpoint(self, key: str) -> None:
        """Delete everything that is needed only while a job is in progress."""
        shutil.rmtree(self.checkpoint_dir(key), ignore_errors=True)


def _read_all(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[Damaged]]:
    """Return the content of the intact files, and the damaged ones."""
    contents: list[T] = []
    damaged: list[Damaged] = []
    for path in paths:
        try:
            contents.append(read(path))
        except Damaged as error:
            damaged.append(error)
    return contents, damaged


def _ledger_order(record: Record) -> tuple[Any, ...]:
    """Sort by arm, kind, seed and key; of records with one key, a repeat's comes before trials."""
    number = record.get("number")
    return record["arm"], record["kind"], record["seed"], record["key"], -1 if number is None else number


def _read_note(path: Path) -> Job:
    try:
        return Job.model_validate(files.read_checked(path))
    except ValidationError as error:
        raise Damaged(path, f"names no job of this version: {_one_line(error)}") from None


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file without checksum; empty if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _one_line(error: Exception) -> str:
    """Return an error on one line: of a validation, its first problem with its place."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
    return " ".join(str(error).split())[:300]


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries under dotted names: ``training.lr``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat
