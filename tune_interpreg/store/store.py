"""The store of a study: every path, atomic writes, and the ledger of finished items.

<store>/study.yaml                         as resolved
<store>/driver.json                        who runs it, or ran it last
<store>/driver.lock                        held by who runs it
<store>/ledger/<arm>/<key>.json            one file a finished item: the truth
<store>/ledger/<arm>/<key>-<number>.json   of a later proposal that equals an earlier one
<store>/choices/<arm>.json                 what the arm's search chose
<store>/models/<key>/seed-<s>.safetensors
<store>/targets/<key>.npy                  raw maps of all training images
<store>/targets/<key>.preview.safetensors  a few validation images, their labels, maps and simple gradients
<store>/checkpoints/<key>/                 of items under way: item.json, place.json and the last epoch
<store>/optuna.journal                     a view of the searches for optuna-dashboard
<store>/tensorboard/<arm>/<label>/
<store>/report/
<store>/damaged/                           what was found damaged, under its path in the store; nothing reads it

Records, choices and notes are sealed (see ``integrity``), and a record lists the checksums of the files that its item
made. What is found damaged is set aside and made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from tune_interpreg.store.files import (
    Damaged,
    Refused,
    StoreError,
    file_checksum,
    read_checked,
    read_checked_text,
    replace_atomically,
    text_with_checksum,
    with_checksum,
)
from tune_interpreg.store.paths import FOLDERS, Layout
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.recipe import FORMAT

__all__ = ["Damaged", "Record", "Refused", "Store", "StoreError"]

Record = dict[str, Any]
T = TypeVar("T")

#: What every record has, of whatever version.
FIELDS = ("format", "key", "arm", "role", "number", "seeds", "state", "metrics")


class Store(Layout):
    """The folder of one study's results. Constructing it touches nothing.

    driver: the signature of the run that this is part of, where it is part of one; once another run has signed the
    store, no file takes its place any more, and whoever tries to write gets ``Refused``.
    """

    def __init__(self, path: str | Path, driver: str | None = None):
        super().__init__(path)
        self.driver = driver

    # ----------------------------------------------------------------- writing
    @contextmanager
    def replace_atomically(self, path: Path) -> Iterator[Path]:
        """As ``replace_atomically``, while no other driver has the store."""
        with replace_atomically(path) as temporary:
            yield temporary
            self.check_driver()

    def write_bytes(self, path: Path, content: bytes) -> None:
        with self.replace_atomically(path) as temporary:
            temporary.write_bytes(content)

    def write_text(self, path: Path, text: str) -> None:
        self.write_bytes(path, text.encode("utf-8"))

    def write_json(self, path: Path, content: Any) -> None:
        self.write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def write_checked(self, path: Path, content: dict[str, Any]) -> None:
        self.write_json(path, with_checksum(content))

    def checksums(self, *paths: Path) -> dict[str, str]:
        """What a record says of the files that its item made: path in the store → checksum."""
        return {path.relative_to(self.path).as_posix(): file_checksum(path) for path in paths}

    def set_aside(self, damaged: Damaged) -> str:
        """Move a damaged file to ``damaged/``, under its own path there; returns what to tell the user."""
        self.check_driver()
        own = damaged.path.relative_to(self.path)
        places = (self.path / "damaged" / own.with_name(own.name + f".{n}" * (n > 0)) for n in range(2**31))
        place = next(place for place in places if not place.exists())
        if not damaged.path.exists():
            return f"{damaged.path}: {damaged.reason}"
        place.parent.mkdir(parents=True, exist_ok=True)
        damaged.path.rename(place)
        return f"{damaged.path}: {damaged.reason}; set aside as {place.relative_to(self.path)}"

    def remove_leftovers(self) -> None:
        """Drop what runs and workers that were killed have left: temporary files, locks, what Tune kept for itself."""
        self.check_driver()
        for left in (*self.path.rglob(".*.part"), *self.path.glob(f"{self.journal.name}.lock*")):
            left.unlink(missing_ok=True)
        shutil.rmtree(self.tune_dir, ignore_errors=True)

    # ------------------------------------------------------------------ access
    def check_access(self) -> None:
        """Raise ``StoreError`` where a folder of the store cannot be read and written."""
        for folder in (self.path, *(self.path / name for name in FOLDERS), *self.path.glob("ledger/*/")):
            try:
                if folder == self.path or folder.exists():
                    os.listdir(folder)
                    with tempfile.TemporaryFile(dir=folder):
                        pass
            except OSError as error:
                remedy = "mend that, or name another folder with --store"
                raise StoreError(f"{folder}: cannot be read and written ({error.strerror}); {remedy}") from None

    def read_driver(self) -> dict[str, Any]:
        """Who signed the store last (see ``lock.sign``); empty where that cannot be read."""
        try:
            known = json.loads(self.driver_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}

    def check_driver(self) -> None:
        """Raise ``Refused`` where another driver has signed the store since."""
        if self.driver is not None and self.read_driver().get("id", self.driver) != self.driver:
            raise Refused(f"{self.path}: another run has taken it over; this one writes nothing more")

    # ------------------------------------------------------------------- study
    def check_setting(self, study: Study) -> None:
        """Refuse, before anything is written, a store that holds results of another setting.

        More arms, seeds or trials are growth of the same study; another setting is another study.
        """
        if not self.study_file.exists():
            if self.path.exists() and not self.driver_file.exists() and not self.is_unused():
                raise StoreError(f"{self.path}: is no store and not empty; name an empty folder with --store")
            return
        there, here = _flat(self.load_study().setting()), _flat(study.setting())
        differing = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
        if differing:
            told = "; ".join(f"{key} is {there.get(key)!r} there, {here.get(key)!r} here" for key in differing)
            raise StoreError(
                f"{self.path}: was made by another study: {told}. "
                "Name another folder with --store, or restore the setting"
            )

    def is_unused(self) -> bool:
        """Whether the folder holds nothing but what a driver leaves that was killed at once."""
        return self.path.is_dir() and all(path.suffix in (".part", ".lock") for path in self.path.iterdir())

    def save_study(self, study: Study) -> None:
        """Write the study as ``resolved``, so that who reads it later needs none of the methods' code."""
        text = yaml.safe_dump(resolve_study(study).model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self.write_text(self.study_file, text_with_checksum(text))

    def load_study(self) -> Study:
        """The study that this store was last run with.

        Raises ``StoreError`` where there is none, ``Damaged`` where it is no longer what was written.
        """
        if not self.study_file.exists():
            raise StoreError(f"{self.path}: is no store (it has no study.yaml); `run` makes one")
        try:
            return Study.model_validate(yaml.safe_load(read_checked_text(self.study_file)))
        except Damaged as error:
            raise Damaged(self.study_file, f"cannot be read as a study: {error.reason}") from None
        except (yaml.YAMLError, ValidationError) as error:
            raise Damaged(self.study_file, f"cannot be read as a study of this version: {_first(error)}") from None

    # ------------------------------------------------------------------ ledger
    def write_record(self, record: Record) -> None:
        self.write_checked(self.record_file(record["arm"], record["key"]), record)

    def write_copy(self, item: Item, record: Record) -> Record:
        """Write and return the record of an item whose result ``record`` has, under another number or arm."""
        twin = record | {"arm": item.arm, "number": item.number, "seconds": 0.0, "spent": {}}
        path = self.record_file(item.arm, item.key)
        self.write_checked(self.record_file(item.arm, f"{item.key}-{item.number}") if path.exists() else path, twin)
        return twin

    def records(self) -> list[Record]:
        """All records that are whole, by arm, role, number and seeds."""
        return self.read_ledger()[0]

    def read_ledger(self) -> tuple[list[Record], list[Damaged]]:
        """The records, as ``records`` gives them, and the files that are damaged."""
        found, damaged = _sorted_out(self._record_files(), _read_record)
        return sorted(found, key=lambda one: (one["arm"], one["role"], one["number"], one["seeds"])), damaged

    def read_record(self, item: Item) -> Record | None:
        """The record that the item's worker has written, if it is there and whole."""
        path = self.record_file(item.arm, item.key)
        try:
            return _read_record(path) if path.exists() else None
        except Damaged:
            return None

    def _record_files(self) -> list[Path]:
        return sorted((self.path / "ledger").glob("*/*.json"))

    def item_of(self, record: Record) -> Item | None:
        """The item that a record settles, or None where code of another ``FORMAT`` made it."""
        if record["format"] != FORMAT:
            return None
        try:
            item = Item.model_validate({name: record[name] for name in Item.model_fields})
        except (KeyError, ValidationError) as error:
            path = self.record_file(record["arm"], record["key"])
            raise StoreError(
                f"{path}: is no ledger record ({error!r}); move it away, and `run` makes it anew"
            ) from None
        return item if item.key == record["key"] else None

    def delete_failures(self) -> int:
        """Drop the records of failed items, so that they run again; returns how many there were."""
        found, _ = _sorted_out(self._record_files(), lambda path: (path, _read_record(path)["state"]))
        failed = [path for path, state in found if state == "failed"]
        for path in failed:
            path.unlink()
        return len(failed)

    def drop(self, key: str) -> None:
        """Set aside the records of the item ``key`` and of its twins: what it made is damaged."""
        for path in self._record_files():
            if path.stem.partition("-")[0] == key:
                self.set_aside(Damaged(path, "is of an item whose files are damaged"))

    def read_choice(self, arm: str) -> dict[str, Any] | None:
        """What the arm's search chose (the fields of ``choice.Choice``), or None while it goes on.

        Raises ``Damaged`` where it is no longer what was written.
        """
        path = self.choice_file(arm)
        return read_checked(path) if path.exists() else None

    # ----------------------------------------------------------- items under way
    def note_start(self, item: Item) -> None:
        """Note, before it starts, what is about to run, so that a later run can go on with it."""
        self.write_checked(self.checkpoint_dir(item.key) / "item.json", item.model_dump(mode="json"))

    def started_items(self) -> list[Item]:
        """Items that were begun and not ended, in the order of their arms and numbers."""
        return self.read_notes()[0]

    def read_notes(self) -> tuple[list[Item], list[Damaged]]:
        """The items, as ``begun`` gives them, and the notes that are damaged."""
        items, damaged = _sorted_out((self.path / "checkpoints").glob("*/item.json"), _read_note)
        return sorted(items, key=lambda item: (item.arm, item.number, item.seeds)), damaged

    def drop_checkpoint(self, key: str) -> None:
        """Drop what is kept only while an item is under way."""
        shutil.rmtree(self.checkpoint_dir(key), ignore_errors=True)

    def checkpoint_keys(self) -> set[str]:
        """The keys of all items of which something is kept, whole or not."""
        return {folder.name for folder in (self.path / "checkpoints").glob("*/")}


def _sorted_out(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[Damaged]]:
    """What ``read`` makes of the whole files, and the damaged ones."""
    found: list[T] = []
    damaged: list[Damaged] = []
    for path in paths:
        try:
            found.append(read(path))
        except Damaged as error:
            damaged.append(error)
    return found, damaged


def _read_record(path: Path) -> Record:
    record = read_checked(path)
    if missing := [name for name in FIELDS if name not in record]:
        raise Damaged(path, f"is no ledger record: it lacks {', '.join(missing)}")
    return record


def _read_note(path: Path) -> Item:
    try:
        return Item.model_validate(read_checked(path))
    except ValidationError as error:
        raise Damaged(path, f"names no item of this version: {_first(error)}") from None


def _first(error: yaml.YAMLError | ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    if isinstance(error, ValidationError):
        one = error.errors()[0]
        return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
    return str(error).splitlines()[0]


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat
