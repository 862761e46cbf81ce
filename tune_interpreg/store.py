"""The store of a study: every path, atomic writes, and the ledger of finished items.

<store>/study.yaml                         as resolved
<store>/driver.json                        who runs it, or ran it last
<store>/ledger/<arm>/<key>.json            one file a finished item: the truth
<store>/ledger/<arm>/<key>-<number>.json   of a later proposal that equals an earlier one
<store>/models/<key>/seed-<s>.safetensors
<store>/targets/<key>.npy, <key>.preview.npy
<store>/checkpoints/<key>/                 of items under way: item.json and the last epoch
<store>/optuna.journal                     a view of the searches for optuna-dashboard
<store>/tensorboard/<arm>/<label>/
<store>/report/
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tune_interpreg.config import Study
from tune_interpreg.items import FORMAT, Item

Record = dict[str, Any]


class StoreError(ValueError):
    """A store that cannot be used; the message names the folder, what is wrong and what to do."""


class Store:
    """The folder of one study's results. Constructing it touches nothing."""

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()

    # ------------------------------------------------------------------ paths
    @property
    def study_file(self) -> Path:
        return self.path / "study.yaml"

    @property
    def driver_file(self) -> Path:
        """Who runs the study, or ran it last."""
        return self.path / "driver.json"

    @property
    def journal(self) -> Path:
        return self.path / "optuna.journal"

    @property
    def report_dir(self) -> Path:
        return self.path / "report"

    @property
    def tensorboard_dir(self) -> Path:
        return self.path / "tensorboard"

    def trial_log(self, item: Item) -> Path:
        """The folder of an item's TensorBoard events."""
        return self.tensorboard_dir / item.arm / item.label

    def record_file(self, arm: str, key: str) -> Path:
        return self.path / "ledger" / arm / f"{key}.json"

    def choice_file(self, arm: str) -> Path:
        return self.path / "choices" / f"{arm}.json"

    def model_file(self, key: str, seed: int) -> Path:
        return self.path / "models" / key / f"seed-{seed}.safetensors"

    def maps_file(self, key: str) -> Path:
        """Raw maps of all training images, N·C·H·W."""
        return self.path / "targets" / f"{key}.npy"

    def preview_file(self, key: str) -> Path:
        """Raw maps of the few validation images that TensorBoard shows."""
        return self.path / "targets" / f"{key}.preview.npy"

    def checkpoint_dir(self, key: str) -> Path:
        return self.path / "checkpoints" / key

    # ----------------------------------------------------------------- writing
    @staticmethod
    @contextmanager
    def writing(path: Path) -> Iterator[Path]:
        """A temporary file beside ``path`` that takes its place, whole and on disk, when the block ends well."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}.part")
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def write_bytes(cls, path: Path, content: bytes) -> None:
        with cls.writing(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def write_text(cls, path: Path, text: str) -> None:
        cls.write_bytes(path, text.encode("utf-8"))

    @classmethod
    def write_json(cls, path: Path, content: Any) -> None:
        cls.write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    # ------------------------------------------------------------------- study
    def check(self, study: Study) -> None:
        """Refuse, before anything is written, a store that holds results of another setting.

        More arms, seeds or trials are growth of the same study; another setting is another study.
        """
        if not self.study_file.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise StoreError(f"{self.path}: is no store and not empty; name an empty folder with --store")
            return
        there, here = _flat(self.study().setting()), _flat(study.setting())
        differing = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
        if differing:
            told = "; ".join(f"{key} is {there.get(key)!r} there, {here.get(key)!r} here" for key in differing)
            raise StoreError(
                f"{self.path}: was made by another study: {told}. "
                "Name another folder with --store, or restore the setting"
            )

    def save_study(self, study: Study) -> None:
        text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self.write_text(self.study_file, text)

    def study(self) -> Study:
        """The study that this store was last run with; raises ``StoreError`` where there is none."""
        try:
            return Study.model_validate(yaml.safe_load(self.study_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise StoreError(f"{self.path}: is no store (it has no study.yaml); `run` makes one") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise StoreError(f"{self.study_file}: cannot be read as a study: {error}") from None

    # ------------------------------------------------------------------ ledger
    def write_record(self, record: Record) -> None:
        self.write_json(self.record_file(record["arm"], record["key"]), record)

    def write_twin(self, item: Item, record: Record) -> Record:
        """Write and return the record of an item whose result ``record`` has, under another number or arm."""
        twin = record | {"arm": item.arm, "number": item.number, "seconds": 0.0}
        path = self.record_file(item.arm, item.key)
        self.write_json(self.record_file(item.arm, f"{item.key}-{item.number}") if path.exists() else path, twin)
        return twin

    def records(self) -> list[Record]:
        """All records, by arm, role, number and seeds; a file that is none raises ``StoreError`` with its name."""
        found = [_read_record(path) for path in self._record_files()]
        return sorted(found, key=lambda one: (one["arm"], one["role"], one["number"], one["seeds"]))

    def _record_files(self) -> list[Path]:
        return sorted((self.path / "ledger").glob("*/*.json"))

    def item(self, record: Record) -> Item | None:
        """The item that a record settles, or None where code of another ``FORMAT`` made it."""
        if record["format"] != FORMAT:
            return None
        try:
            item = Item.model_validate({name: record[name] for name in Item.model_fields})
        except (KeyError, ValidationError) as error:
            raise _no_record(self.record_file(record["arm"], record["key"]), error) from None
        return item if item.key == record["key"] else None

    def forget_failures(self) -> int:
        """Drop the records of failed items, so that they run again; returns how many there were."""
        failed = [path for path in self._record_files() if _read_record(path)["state"] == "failed"]
        for path in failed:
            path.unlink()
        return len(failed)

    def choice(self, arm: str) -> dict[str, Any] | None:
        """What the arm's search chose (the fields of ``choice.Choice``), or None while it goes on."""
        path = self.choice_file(arm)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    # ----------------------------------------------------------- items under way
    def begin(self, item: Item) -> None:
        """Note, before it starts, what is about to run, so that a later run can go on with it."""
        self.write_text(self.checkpoint_dir(item.key) / "item.json", item.model_dump_json())

    def begun(self) -> list[Item]:
        """Items that were begun and not ended, in the order of their arms and numbers."""
        items = [_read_note(note) for note in (self.path / "checkpoints").glob("*/item.json")]
        return sorted(items, key=lambda item: (item.arm, item.number, item.seeds))

    def end(self, item: Item) -> None:
        """Drop what is kept only while an item is under way."""
        shutil.rmtree(self.checkpoint_dir(item.key), ignore_errors=True)


def _read_record(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _ = [record[name] for name in ("format", "key", "arm", "role", "number", "seeds", "state", "metrics")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_record(path, error) from None
    return record


def _no_record(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path}: is no ledger record ({error!r}); move it away, and `run` makes it anew")


def _read_note(path: Path) -> Item:
    try:
        return Item.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: names no item ({error!r}); remove {path.parent}, and `run` starts anew") from None


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat
