"""The stage that makes target maps: its files, how it resumes, what it refuses.

Shapes: N training images, B images of a block, C·H·W image.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.contract import finish
from helpers.jobs import config_of, training_job
from safetensors.torch import load_file, save_file

from trainables.base.trainable import PREVIEW
from trainables.stages.judge import JudgeTrainable
from trainables.stages.maps import BLOCK, MapsTrainable
from trainables.stages.stage import StageTrainable
from tune_interpreg import seeding
from tune_interpreg.data.dataset import Split, load_dataset
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.build import build
from tune_interpreg.store.files import Damaged
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data, MapSettings, Model
from tune_interpreg.study.items import Job, Maps
from tune_interpreg.study.recipe import Recipe

N = 2 * BLOCK + 100
DATA = Data(name="digits", train_limit=N)
IMAGES = load_dataset(DATA)
NET = Model(name="mnist_cnn")
SEED, SETTINGS = 3, MapSettings(sigma=0.2, samples=2)

Finished = tuple[Store, list[dict[str, Any]]]


def teacher() -> torch.nn.Module:
    """Return a network with dropout, which must be off while maps are made."""
    return build(NET, (1, 8, 8), 10, 1)


def maps_job(settings: MapSettings = SETTINGS, data: Data = DATA) -> Job:
    """Return the job that makes the maps of a teacher, which was trained on ``data``."""
    trained = training_job(Recipe(method="adversarial", data=data, model=NET), "adversarial", seed=SEED)
    work = (Maps(teacher=trained.key, settings=settings),)
    return trained.model_copy(update={"stage": "maps", "trains": False, "work": work})


JOB = maps_job()
(MAPS,) = JOB.work


def store_with(folder: Path, model: torch.nn.Module | None = None, job: Job = JOB) -> Store:
    """Return a store that holds the teacher's weights."""
    store = Store(folder)
    weights = store.model_file(job.models[0].key)
    weights.parent.mkdir(parents=True)
    save_file((model or teacher()).state_dict(), weights)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_with(tmp_path / "store")


def make(store: Store, job: Job = JOB) -> MapsTrainable:
    return MapsTrainable(config_of(job, store))


def load_maps(store: Store, job: Job = JOB) -> np.ndarray:
    maps_NCHW: np.ndarray = np.load(store.maps_file(job.key))
    return maps_NCHW


def smoothgrad(model: torch.nn.Module, images: Split, purpose: str, settings: MapSettings = SETTINGS) -> np.ndarray:
    """Return the maps with the stream (teacher's seed, purpose), without dropout."""
    generator = seeding.generator(SEED, purpose)
    maps_BCHW = saliency.smoothgrad(
        model.eval(), images.x_NCHW, images.y_N, settings=settings, generator=generator, chunk=1
    )
    return maps_BCHW.numpy()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The store and the results of an uninterrupted stage."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(folder / "logs"))
        store = store_with(folder / "store")
        return store, finish(make(store))


def test_maps_are_the_teachers_smoothgrad_block_by_block(whole: Finished) -> None:
    """Images 512b … 512b + 511 have SmoothGrad with the stream smoothgrad/b, rounded to float16."""
    maps_NCHW = load_maps(whole[0])
    assert (maps_NCHW.shape, maps_NCHW.dtype) == ((N, 1, 8, 8), np.float16)
    for block, first in enumerate(range(0, N, BLOCK)):
        expected = smoothgrad(teacher(), IMAGES.train.at(slice(first, first + BLOCK)), f"smoothgrad/{block}")
        assert np.array_equal(maps_NCHW[first : first + BLOCK], expected.astype(np.float16))


def test_maps_that_do_not_fit_float16_are_stored_in_float32(tmp_path: Path) -> None:
    """A teacher with tiny gradients does not lose its maps. The record holds the type."""
    faint = teacher()
    with torch.no_grad():
        list(faint.parameters())[-2].mul_(1e-6)
    store = store_with(tmp_path / "store", faint)
    finish(make(store))
    maps_NCHW = load_maps(store)
    assert maps_NCHW.dtype == np.float32
    assert np.array_equal(maps_NCHW[:BLOCK], smoothgrad(faint, IMAGES.train.at(slice(BLOCK)), "smoothgrad/0"))
    assert store.records()[0]["maps_dtype"] == "float32"


@pytest.mark.parametrize(
    "settings", [{"clamp": True, "include_clean": True}, {"sign": "signed", "output": "probabilities", "sigma": 0.5}]
)
def test_maps_follow_the_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    """Each set of settings has its own key and file."""
    data, changed = Data(name="digits", train_limit=30), SETTINGS.model_copy(update=settings)
    job = maps_job(changed, data)
    store = store_with(tmp_path / "store", job=job)
    finish(make(store, job))
    expected = smoothgrad(teacher(), load_dataset(data).train, "smoothgrad/0", changed)
    np.testing.assert_allclose(load_maps(store, job), expected, rtol=2**-10, atol=1e-6)
    assert not store.maps_file(maps_job(SETTINGS, data).key).exists()


def test_previews_are_maps_of_validation_images(whole: Finished) -> None:
    images = IMAGES.validation.subset(PREVIEW, "preview")
    preview = load_file(whole[0].preview_file(MAPS.key))
    assert np.array_equal(preview["smoothgrad_NCHW"], smoothgrad(teacher(), images, "smoothgrad/preview"))
    expected = saliency.simple_gradient(teacher().eval(), images.x_NCHW, images.y_N)
    assert torch.equal(preview["gradient_NCHW"], expected)
    assert torch.equal(preview["images_NCHW"], images.x_NCHW)
    assert torch.equal(preview["labels_N"], images.y_N)
    assert [preview[name].dtype for name in ("images_NCHW", "labels_N")] == [torch.float32, torch.int64]


def test_progress_and_record(whole: Finished) -> None:
    store, results = whole
    assert [result["maps"] for result in results] == [BLOCK / N, 2 * BLOCK / N, 1.0]
    assert [result["epoch"] for result in results] == [1, 2, 3]
    (record,) = store.records()
    assert json.loads(results[-1]["records"]) == [record]
    assert (record["key"], record["kind"], record["state"]) == (MAPS.key, "maps", "done")
    assert (record["arm"], record["seed"], record["teacher"]) == ("adversarial", SEED, JOB.models[0].key)
    assert (record["epochs"], record["images"], record["device"]) == (3, {"train": N}, "cpu")
    assert record["maps_dtype"] == "float16"
    assert not list(store.checkpoint_dir(JOB.key).glob("maps.npy"))


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_an_interrupted_stage_makes_the_same_maps(blocks: int, whole: Finished, store: Store) -> None:
    """A worker dies within the block after ``blocks``. The next one has the same bits and makes no block twice."""
    killed = make(store)
    for _ in range(blocks):
        killed.step()
    killed.partial.raw_NCHW[blocks * BLOCK :] = np.nan
    killed.partial.raw_NCHW.flush()
    assert len(finish(make(store))) == 3 - blocks
    assert np.array_equal(load_maps(store), load_maps(whole[0]))


@pytest.mark.parametrize("place", ["preview", "maps", "record"])
def test_a_stage_that_dies_after_its_last_block_makes_no_block_again(place: str, whole: Finished, store: Store) -> None:
    record_file = store.record_file("adversarial", MAPS.key)
    files = {"preview": store.preview_file(MAPS.key), "maps": store.maps_file(MAPS.key), "record": record_file}
    files[place].mkdir(parents=True)  # an obstacle
    with pytest.raises(OSError):
        finish(make(store))
    assert not list(store.path.rglob("*.part"))
    files[place].rmdir()
    assert [result["epoch"] for result in finish(make(store))] == [3]
    assert np.array_equal(load_maps(store), load_maps(whole[0]))
    assert store.records()[0]["epochs"] == 3


def test_a_reused_worker_makes_the_next_teachers_maps(whole: Finished, store: Store, tmp_path: Path) -> None:
    trainable = make(store)
    trainable.step()
    later = store_with(tmp_path / "later")
    assert trainable.reset_config(config_of(JOB, later))
    finish(trainable)
    assert np.array_equal(load_maps(later), load_maps(whole[0]))
    assert not store.maps_file(MAPS.key).exists()


@pytest.mark.parametrize(("value", "blocks"), [(float("nan"), 0), (float("inf"), 1)])
def test_a_map_that_is_not_finite_ends_the_stage_as_diverged(value: float, blocks: int, store: Store) -> None:
    """The record names the first such image, and no maps remain. Another try would give the same."""
    trainable = make(store)
    for _ in range(blocks):
        trainable.step()
    with torch.no_grad():
        next(trainable.teacher.parameters())[0] = value
    result = trainable.step()
    (record,) = store.records()
    assert result["done"]
    assert json.loads(result["records"]) == [record]
    assert (record["state"], record["kind"], record["epochs"]) == ("diverged", "maps", blocks)
    image = BLOCK * blocks
    assert record["error"] == f"the teacher adversarial, seed 3: the map of training image {image} is not finite"
    assert not store.maps_file(MAPS.key).exists()
    assert not list(store.checkpoint_dir(JOB.key).glob("maps.npy"))


def test_a_damaged_teacher_is_named(store: Store) -> None:
    file = store.model_file(JOB.models[0].key)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(Damaged, match=str(file)):
        make(store)


@pytest.mark.parametrize("stage", [MapsTrainable, JudgeTrainable])
def test_a_stage_runs_within_a_study_only(stage: type[StageTrainable]) -> None:
    with pytest.raises(ValueError, match="within a study only"):
        stage({"sigma": 0.1})
