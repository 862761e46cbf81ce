"""A training on a part of the study's images: the part's images with their own maps; the other splits stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.contract import Make
from helpers.jobs import config_of, training_job
from safetensors.torch import save_file

from tune_interpreg.data.dataset import DataError, load_dataset, split_stratified
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data, Training
from tune_interpreg.study.recipe import Recipe, TargetMaps

N, PART = 60, 24
DATA = Data(name="digits", train_limit=N, validation=30, test_limit=30)
IMAGES = load_dataset(DATA)


def recipe(limit: int, maps: TargetMaps | None = None) -> Recipe:
    training = Training(epochs=1, batch_size=12)
    params = {"lambda": 0.1} if maps else {}
    method = "interpretation" if maps else "standard"
    return Recipe(method=method, params=params, data=DATA, training=training, maps=maps, train_limit=limit)


def test_each_image_of_the_part_keeps_its_map(make: Make, tmp_path: Path) -> None:
    """Map n is filled with n."""
    store, maps = Store(tmp_path / "store"), TargetMaps(key="made")
    store.maps_file(maps.key).parent.mkdir(parents=True)
    raw_NCHW = np.broadcast_to(np.arange(N).reshape(N, 1, 1, 1), (N, 1, 8, 8)).astype(np.float16)
    np.save(store.maps_file(maps.key), raw_NCHW)
    save_file({"smoothgrad_NCHW": torch.zeros(8, 1, 8, 8)}, store.preview_file(maps.key))
    trainable = make("interpretation", **config_of(training_job(recipe(PART, maps)), store))
    rows_M = split_stratified(IMAGES.train.y_N, PART, "train_limit")[0]
    assert torch.equal(trainable.data.train.x_NCHW, IMAGES.train.x_NCHW[rows_M])
    assert torch.equal(trainable.data.validation.x_NCHW, IMAGES.validation.x_NCHW)
    assert trainable.trainer.guidance is not None
    assert trainable.trainer.guidance.raw_NCHW[0][:, 0, 0, 0].tolist() == rows_M.tolist()
    assert trainable.trainer.steps == PART // 12
    trainable.step()
    (record,) = store.records()
    assert record["images"]["train"] == PART


def test_more_images_than_the_study_has_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_limit: the study has 60 training images, got 61"):
        make("standard", **config_of(training_job(recipe(N + 1)), Store(tmp_path)))
