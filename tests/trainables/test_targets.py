"""The stage that makes target maps: what it writes, how it goes on after a kill, what it refuses.

Shapes: N training images, C·H·W image.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trainables import TargetsTrainable
from trainables.base.trainable import PREVIEW
from trainables.stages.targets import BLOCK
from tune_interpreg import seeding
from tune_interpreg.data.dataset import DataError, Split, load_dataset
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.build import build
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data, Model
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Maps, Recipe
from tune_interpreg.training.trainer import Diverged

N = 2 * BLOCK + 100
DATA = Data(name="digits", train_limit=N)
NET = Model(name="mnist_cnn")
MAPS = Maps(teacher="teacher", teacher_seed=3, sigma=0.2, samples=2)

Make = Callable[..., TargetsTrainable]


def teacher() -> torch.nn.Module:
    """A net with dropout, which has to be off while maps are made."""
    return build(NET, (1, 8, 8), 10, seeding.generator(1, "init"))


def item(**own: Any) -> Item:
    recipe = Recipe(**{"method": "targets", "data": DATA, "model": NET, "maps": MAPS} | own)
    return Item(arm="adversarial", role="targets", recipe=recipe, seeds=(MAPS.teacher_seed,))


def store(folder: Path, model: torch.nn.Module | None = None) -> Store:
    """A store that holds the teacher's weights."""
    made = Store(folder)
    weights = made.model_file(MAPS.teacher, MAPS.teacher_seed)
    weights.parent.mkdir(parents=True)
    save_file((model or teacher()).state_dict(), weights)
    return made


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    return lambda where, **own: TargetsTrainable(
        {"item": item(**own).model_dump(mode="json"), "store": str(where.path), "device": "cpu"}
    )


def finished(trainable: TargetsTrainable) -> list[dict[str, Any]]:
    """The results of all steps that are left."""
    results = [trainable.step()]
    while "record" not in results[-1]:
        results.append(trainable.step())
    return results


def maps_of(where: Store) -> np.ndarray:
    found: np.ndarray = np.load(where.maps_file(MAPS.key))
    return found


def smoothgrad(model: torch.nn.Module, rows: Split, purpose: str, maps: Maps = MAPS) -> np.ndarray:
    """With the stream (teacher's seed, purpose), dropout off."""
    generator = seeding.generator(maps.teacher_seed, purpose)
    made = saliency.smoothgrad(model.eval(), rows.x_NCHW, rows.y_N, settings=maps, generator=generator, chunk=1)
    return made.numpy()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, list[dict[str, Any]]]]:
    """The store and the results of an uninterrupted stage."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(folder / "logs"))
        where = store(folder / "store")
        config = {"item": item().model_dump(mode="json"), "store": str(where.path), "device": "cpu"}
        yield where, finished(TargetsTrainable(config))


def test_maps_are_the_teachers_smoothgrad_block_by_block(whole: tuple[Store, list[dict[str, Any]]]) -> None:
    """Images 512b … 512b + 511 have SmoothGrad with the stream smoothgrad/b, rounded to float16."""
    maps_NCHW, train = maps_of(whole[0]), load_dataset(DATA).train
    assert (maps_NCHW.shape, maps_NCHW.dtype) == ((N, 1, 8, 8), np.float16)
    for block, first in enumerate(range(0, N, BLOCK)):
        expected = smoothgrad(teacher(), train.at(slice(first, first + BLOCK)), f"smoothgrad/{block}")
        assert np.array_equal(maps_NCHW[first : first + BLOCK], expected.astype(np.float16))


def test_float16_keeps_each_maps_norm_and_sum(whole: tuple[Store, list[dict[str, Any]]]) -> None:
    """To one part in 1,024 of what float32 has."""
    exact = smoothgrad(teacher(), load_dataset(DATA).train.at(slice(BLOCK)), "smoothgrad/0").reshape(BLOCK, -1)
    stored = maps_of(whole[0])[:BLOCK].reshape(BLOCK, -1).astype(np.float64)
    for order in (1, 2):
        np.testing.assert_allclose(
            np.linalg.norm(stored, order, axis=1), np.linalg.norm(exact, order, axis=1), rtol=2**-10
        )


def test_maps_that_float16_would_spoil_stay_float32(make: Make, tmp_path: Path) -> None:
    """A teacher with tiny gradients does not lose its maps; the record says how they are stored."""
    faint = teacher()
    with torch.no_grad():
        list(faint.parameters())[-2].mul_(1e-6)
    where = store(tmp_path / "store", faint)
    finished(make(where))
    maps_NCHW = maps_of(where)
    expected = smoothgrad(faint, load_dataset(DATA).train.at(slice(BLOCK)), "smoothgrad/0")
    assert maps_NCHW.dtype == np.float32
    assert np.array_equal(maps_NCHW[:BLOCK], expected)
    assert where.records()[0]["maps_dtype"] == "float32"


@pytest.mark.parametrize(
    "own", [{"clamp": True, "include_clean": True}, {"sign": "signed", "output": "probabilities", "sigma": 0.5}]
)
def test_maps_are_made_as_the_settings_say(own: dict[str, Any], make: Make, tmp_path: Path) -> None:
    """Each set of settings has a key, and a file, of its own."""
    maps, few = MAPS.model_copy(update=own), Data(name="digits", train_limit=30)
    where = store(tmp_path / "store")
    finished(make(where, maps=maps, data=few))
    expected = smoothgrad(teacher(), load_dataset(few).train, "smoothgrad/0", maps)
    np.testing.assert_allclose(np.load(where.maps_file(maps.key)), expected, rtol=2**-10, atol=1e-6)
    assert not where.maps_file(MAPS.key).exists()


def test_previews_are_maps_of_the_first_validation_images(whole: tuple[Store, list[dict[str, Any]]]) -> None:
    """A few maps beside the others, for TensorBoard: no training image is among them."""
    expected = smoothgrad(teacher(), load_dataset(DATA).validation.subset(PREVIEW, "preview"), "smoothgrad/preview")
    shown = load_file(whole[0].preview_file(MAPS.key))
    rows = load_dataset(DATA).validation.subset(PREVIEW, "preview")
    assert np.array_equal(shown["smoothgrad_NCHW"], expected)
    assert torch.equal(shown["gradient_NCHW"], saliency.simple_gradient(teacher().eval(), rows.x_NCHW, rows.y_N))
    assert torch.equal(shown["images_NCHW"], rows.x_NCHW)
    assert torch.equal(shown["labels_N"], rows.y_N)
    assert [shown[name].dtype for name in ("images_NCHW", "labels_N")] == [torch.float32, torch.int64]


def test_progress_and_record(whole: tuple[Store, list[dict[str, Any]]]) -> None:
    """Each step tells the share of maps that are made; the last one leaves the record."""
    where, results = whole
    assert [result["maps"] for result in results] == [BLOCK / N, 2 * BLOCK / N, 1.0]
    assert [result["epoch"] for result in results] == [1, 2, 3]
    (record,) = where.records()
    assert json.loads(results[-1]["record"]) == record
    assert (record["key"], record["role"], record["state"]) == (item().key, "targets", "done")
    assert (record["epochs"], record["counts"], record["device"]) == (3, {"train": N}, "cpu")
    assert record["maps_dtype"] == "float16"
    assert not list(where.checkpoint_dir(item().key).glob("maps.npy"))


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_an_interrupted_stage_makes_the_same_maps(
    blocks: int, whole: tuple[Store, list[dict[str, Any]]], make: Make, tmp_path: Path
) -> None:
    """A worker dies in the midst of the block after ``blocks``; the next one goes on: the same bits, no block twice."""
    where = store(tmp_path / "store")
    killed = make(where)
    for _ in range(blocks):
        killed.step()
    killed.partial.raw_NCHW[blocks * BLOCK :] = np.nan
    killed.partial.raw_NCHW.flush()
    assert len(finished(make(where))) == 3 - blocks
    assert np.array_equal(maps_of(where), maps_of(whole[0]))


@pytest.mark.parametrize("place", ["preview", "maps", "record"])
def test_a_stage_that_dies_after_its_last_block_only_finishes(
    place: str, whole: tuple[Store, list[dict[str, Any]]], make: Make, tmp_path: Path
) -> None:
    """No block is made again for want of a file that comes later: not of the record, when the maps lie there."""
    where = store(tmp_path / "store")
    files = {"preview": where.preview_file(MAPS.key), "maps": where.maps_file(MAPS.key)}
    obstacle = (files | {"record": where.record_file("adversarial", item().key)})[place]
    obstacle.mkdir(parents=True)
    with pytest.raises(OSError):
        finished(make(where))
    assert not list(where.path.rglob("*.part"))
    obstacle.rmdir()
    assert [result["epoch"] for result in finished(make(where))] == [3]
    assert np.array_equal(maps_of(where), maps_of(whole[0]))
    assert where.records()[0]["epochs"] == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("blocks", [0, 1])
def test_a_map_that_is_not_finite_ends_the_stage_as_diverged(
    value: float, blocks: int, make: Make, tmp_path: Path
) -> None:
    """It would poison every training on it, and comes again with every try: the record names it, and no maps are left.

    The teacher goes wrong after some blocks, so that the first image of the next one is the first to show it.
    """
    where = store(tmp_path / "store")
    trainable = make(where)
    for _ in range(blocks):
        trainable.step()
    with torch.no_grad():
        next(trainable.teacher.parameters())[0] = value
    result = trainable.step()
    (record,) = where.records()
    assert result["done"]
    assert json.loads(result["record"]) == record
    assert (record["state"], record["role"], record["epochs"]) == ("diverged", "targets", blocks)
    place = f"training image {BLOCK * blocks} (block {blocks})"
    assert record["error"] == f"the teacher adversarial, seed 3: the map of {place} is not finite"
    assert not where.maps_file(MAPS.key).exists()
    assert not list(where.checkpoint_dir(item().key).glob("maps.npy"))


def test_the_first_image_whose_map_is_not_finite_is_named(make: Make, tmp_path: Path) -> None:
    maps_BCHW = np.zeros((5, 1, 8, 8), np.float32)
    maps_BCHW[3, 0, 7, 7], maps_BCHW[4] = -np.inf, np.nan
    trainable = make(store(tmp_path / "store"))
    with pytest.raises(Diverged, match=r"seed 3: the map of training image 1027 \(block 2\) is not finite"):
        trainable._refuse_non_finite(maps_BCHW, "training image {} (block 2)", 1024)
    trainable._refuse_non_finite(maps_BCHW[:3], "validation image {}")


def test_a_reused_worker_makes_the_next_teachers_maps(
    whole: tuple[Store, list[dict[str, Any]]], make: Make, tmp_path: Path
) -> None:
    """Reset in the midst of one stage to another: nothing of the former is left."""
    former, later = store(tmp_path / "former"), store(tmp_path / "later")
    trainable = make(former)
    trainable.step()
    config = {"item": item().model_dump(mode="json"), "store": str(later.path), "device": "cpu"}
    assert trainable.reset_config(config)
    finished(trainable)
    assert np.array_equal(maps_of(later), maps_of(whole[0]))
    assert not former.maps_file(MAPS.key).exists()


def test_the_images_have_to_be_the_studys(make: Make, tmp_path: Path) -> None:
    """Maps of other images would be useless, and look alike."""
    make(store(tmp_path / "store"), data_fingerprint=load_dataset(DATA).fingerprint)
    with pytest.raises(DataError, match="the study began with images of fingerprint 00ff"):
        make(store(tmp_path / "other"), data_fingerprint="00ff")


def test_the_stage_runs_within_a_study_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a plain Tuner there is no teacher and no store."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"runs within a study only: its configuration is \{item, store, device\}"):
        TargetsTrainable({"sigma": 0.1})
