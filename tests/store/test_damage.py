"""Damage met by real workers: checkpoints, maps under way, models and maps of a small study of the digits."""

import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from trainables.base.trainable import CHECKPOINT
from trainables.stages.partial_maps import BLOCK, PartialMaps
from tune_interpreg.cluster.worker import StudyTrainable, worker_config
from tune_interpreg.running import run as running
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Training
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Recipe

STUDY = """
data: {name: digits, train_limit: 64, validation: 20, test_limit: 20}
training: {epochs: 2, batch_size: 32, lr: 0.05}
attack: {norm: l2, eps: 0.5, steps: 1}
seeds: [0]
checks: null
arms:
  adversarial: {method: adversarial}
"""
PUPIL = "  pupil: {method: interpretation, lambda: 0.1, targets: {teacher: adversarial, samples: 2}}\n"
SECOND = "  second: {method: interpretation, lambda: 0.2, targets: {teacher: adversarial, samples: 2}}\n"


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def truncate(path: Path, place: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * place)])


# ------------------------------------------------------------------- checkpoints
def item() -> Item:
    recipe = Recipe(
        method="standard",
        data=Data(name="digits", train_limit=64, validation=20, test_limit=20),
        training=Training(epochs=3, batch_size=32, lr=0.05),
        evaluation_attack=Attack(eps=0.5, steps=1),
    )
    return Item(arm="arm", role="search", recipe=recipe, seeds=(0,))


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))


def results(store: Store, steps: int) -> list[dict]:
    """Of a worker that makes so many steps."""
    worker = StudyTrainable(worker_config(item(), store, "cpu"))
    return [worker.step() for _ in range(steps)]


def bare(result: dict) -> dict:
    record = json.loads(result["record"])
    return {key: record[key] for key in ("key", "state", "metrics", "curves", "epochs")}


@pytest.mark.parametrize("spoil", [flip, truncate, lambda path: flip(path, 0.01), lambda path: path.write_bytes(b"")])
def test_a_training_whose_checkpoint_is_damaged_starts_anew_and_ends_the_same(tmp_path: Path, spoil) -> None:
    store, whole = Store(tmp_path / "store"), Store(tmp_path / "whole")
    results(store, 2)
    path = store.checkpoint_dir(item().key) / CHECKPOINT
    spoil(path)
    first, *_, last = results(store, 3)
    assert first["epoch"] == 1
    assert f"{path}: is damaged" in first["warning"]
    assert first["warning"].endswith(
        f"set aside as damaged/checkpoints/{item().key}/{CHECKPOINT}; its training starts anew"
    )
    assert bare(last) == bare(results(whole, 3)[-1])
    assert "warning" not in last


# ---------------------------------------------------------------- maps under way
SHAPE = (3 * BLOCK, 1, 2, 2)
MAPS = np.random.default_rng(0).random(SHAPE, dtype=np.float32)


def begun(store: Store, blocks: int = 3) -> tuple[Path, Path]:
    """The files of a stage that made so many blocks."""
    partial = PartialMaps(store, store.path / "stage", SHAPE)
    for block in range(blocks):
        partial.add(MAPS[block * BLOCK : (block + 1) * BLOCK], seconds=1.0)
    return store.path / "stage" / "maps.npy", store.path / "stage" / "progress.json"


def test_whole_blocks_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    begun(store, 2)
    again = PartialMaps(store, store.path / "stage", SHAPE)
    assert (len(again.blocks), again.seconds, again.warning) == (2, 2.0, None)
    again.add(MAPS[2 * BLOCK :], seconds=1.0)
    again.copy(tmp_path / "all.npy", "float32")
    assert np.array_equal(np.load(tmp_path / "all.npy"), MAPS)


@pytest.mark.parametrize(("place", "kept"), [(0.2, 0), (0.5, 1), (0.9, 2)])
@pytest.mark.parametrize("spoil", [flip, truncate])
def test_a_stage_goes_on_at_the_first_damaged_block(tmp_path: Path, spoil, place: float, kept: int) -> None:
    store = Store(tmp_path)
    maps, _ = begun(store)
    spoil(maps, place)
    again = PartialMaps(store, store.path / "stage", SHAPE)
    assert len(again.blocks) == kept
    assert again.warning == f"{maps}: block {kept} of the maps is damaged; its maps are made anew from there"
    assert np.array_equal(again.raw_NCHW[: kept * BLOCK], MAPS[: kept * BLOCK])


@pytest.mark.parametrize("spoil", [lambda path: flip(path, 0.0), lambda path: truncate(path, 0.0), Path.unlink])
@pytest.mark.parametrize("which", [0, 1])
def test_a_stage_whose_files_cannot_be_read_starts_anew(tmp_path: Path, spoil, which: int) -> None:
    store = Store(tmp_path)
    path = begun(store)[which]
    spoil(path)
    again = PartialMaps(store, store.path / "stage", SHAPE)
    assert (again.blocks, again.seconds) == ([], 0.0)
    if path.name == "maps.npy" or spoil is not Path.unlink:
        assert again.warning is not None
        assert str(path) in again.warning
    again.add(MAPS[:BLOCK], seconds=1.0)


# --------------------------------------------------------------- models and maps
def run(store: Store, text: str, output: StringIO | None = None) -> str:
    console, file = Console(file=output or StringIO(), width=250), store.path.with_suffix(".yaml")
    file.write_text(text)
    setting = read_study_file(str(file), ["name=small"])
    assert running.run(setting, store, where="in-process", retry_failed=False, console=console) == 0
    return console.file.getvalue()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("taught") / "store")
    run(store, STUDY + PUPIL)
    return store


@pytest.mark.parametrize("spoil", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("files", ["targets/*.npy", "targets/*.preview.safetensors"])
def test_damaged_maps_are_made_again_with_the_same_bits(taught: Store, tmp_path: Path, files: str, spoil) -> None:
    """A second pupil needs them."""
    store = Store(shutil.copytree(taught.path, tmp_path / "store"))
    (path,) = store.path.glob(files)
    spoil(path)
    printed = run(store, STUDY + PUPIL + SECOND)
    assert f"{path}: is {'missing' if spoil is Path.unlink else 'damaged'}" in printed
    assert "it is made anew" in printed
    assert path.read_bytes() == (taught.path / path.relative_to(store.path)).read_bytes()
    assert [record["arm"] for record in store.records()] == ["adversarial", "adversarial", "pupil", "second"]
    assert {record["state"] for record in store.records()} == {"done"}


@pytest.mark.parametrize("spoil", [flip, Path.unlink])
def test_a_damaged_teacher_is_trained_again_with_the_same_bits(taught: Store, tmp_path: Path, spoil) -> None:
    """Maps of another kind are asked for, when its model is gone: it comes first, and its old maps stay."""
    store = Store(shutil.copytree(taught.path, tmp_path / "store"))
    teacher = next(record for record in store.records() if record["role"] == "repeat")
    path = store.model_file(teacher["key"], 0)
    spoil(path)
    printed = run(store, STUDY + PUPIL + SECOND.replace("samples: 2", "samples: 1"))
    assert f"{path}: is " in printed
    assert path.read_bytes() == (taught.path / path.relative_to(store.path)).read_bytes()
    assert [record["state"] for record in store.records()] == ["done"] * 5


# --------------------------------------------------------------- what is left over
class Killing(StringIO):
    """Where a run's lines go; meanwhile a worker dies that was about to write a record."""

    def __init__(self, store: Store):
        super().__init__()
        self.left = store.path / "ledger" / "adversarial" / ".0123456789abcdef.json-0.part"

    def write(self, text: str) -> int:
        if not self.getvalue().count("adversarial"):  # the line that tells of its start
            self.left.parent.mkdir(parents=True, exist_ok=True)
            self.left.touch()
        return super().write(text)


def test_what_a_worker_leaves_that_dies_in_a_run_goes_with_the_end_of_that_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    output = Killing(store)
    run(store, STUDY, output)
    assert "adversarial" in output.getvalue()
    assert list(store.path.rglob("*.part")) == []
