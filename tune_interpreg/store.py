"""The store of a study: every path, atomic writes, and the ledger of finished items.

<store>/study.yaml                         as resolved
<store>/ledger/<arm>/<key>.json            one file a finished item: the truth
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
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tune_interpreg.config import Study
from tune_interpreg.items import Item

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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
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

    def record(self, item: Item) -> Record | None:
        """The record of a finished item, or None."""
        path = self.record_file(item.arm, item.key)
        return _read_record(path) if path.exists() else None

    def records(self) -> list[Record]:
        """All records, by arm, role, number and seeds; a file that is none raises ``StoreError`` with its name."""
        found = [_read_record(path) for path in sorted((self.path / "ledger").glob("*/*.json"))]
        return sorted(found, key=lambda one: (one["arm"], one["role"], one["number"], one["seeds"]))

    def forget_failures(self) -> int:
        """Drop the records of failed items, so that they run again; returns how many there were."""
        failed = [record for record in self.records() if record["state"] == "failed"]
        for record in failed:
            self.record_file(record["arm"], record["key"]).unlink()
        return len(failed)

    def choice(self, arm: str) -> dict[str, Any] | None:
        """What the arm's search chose (the fields of ``choice.Choice``), or None while it goes on."""
        path = self.choice_file(arm)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    # ----------------------------------------------------------- items under way
    def begin(self, item: Item) -> None:
        """Note, before it starts, what is about to run, so that a later run can go on with it."""
        path = self.checkpoint_dir(item.key) / "item.json"
        if not path.exists():
            self.write_text(path, item.model_dump_json())

    def begun(self) -> list[Item]:
        """Items that were begun and have no record yet, in the order of their arms and numbers."""
        notes = sorted((self.path / "checkpoints").glob("*/item.json"))
        items = [Item.model_validate_json(note.read_text(encoding="utf-8")) for note in notes]
        return sorted(items, key=lambda item: (item.arm, item.number, item.seeds))

    def end(self, item: Item) -> None:
        """Drop what is kept only while an item is under way."""
        shutil.rmtree(self.checkpoint_dir(item.key), ignore_errors=True)


def _read_record(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _ = record["arm"], record["role"], record["number"], record["seeds"], record["state"], record["metrics"]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: is no ledger record ({error!r}); move it away, and `run` makes it anew") from None
    return record


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat
