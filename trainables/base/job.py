"""What a Trainable is asked to do, and the places where its inputs and results lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tune_interpreg.data.dataset import DataError, Dataset, load_dataset
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data
from tune_interpreg.study.items import Item


@dataclass(frozen=True)
class Job:
    """An item, and where it runs; without a store nothing but Tune keeps its results.

    store: of the driver that handed the item out. maps: an .npy file of the raw target maps of all training images, for
    methods that need targets.
    """

    item: Item
    device: str
    store: Store | None = None
    maps: Path | None = None

    @classmethod
    def of_study(cls, config: Mapping[str, Any]) -> Job:
        """From what a study hands its workers (see ``worker.worker_config``)."""
        item, store = Item.model_validate(config["item"]), Store(config["store"], config.get("driver"))
        maps = store.maps_file(item.recipe.maps.key) if item.recipe.maps else None
        return cls(item, config["device"], store, maps)

    @property
    def device_name(self) -> str:
        """The device as a record names it."""
        return torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else self.device

    def dataset(self) -> Dataset:
        """The training and validation images on the device; raises ``DataError`` where they are not the study's."""
        recipe = self.item.recipe
        images = dataset(recipe.data.model_dump_json(), self.device)
        if recipe.data_fingerprint not in ("", images.fingerprint):
            raise DataError(
                f"data {recipe.data.name}: the study began with images of fingerprint {recipe.data_fingerprint}, "
                f"but this machine's have {images.fingerprint}; give every machine the same files"
            )
        return images


@lru_cache(maxsize=2)
def dataset(of: str, device: str) -> Dataset:
    """The training and validation images of a ``Data`` in JSON on ``device``; a reused worker reads them once."""
    loaded = load_dataset(Data.model_validate_json(of))
    return replace(loaded, train=loaded.train.to(device), validation=loaded.validation.to(device))
