"""What a Trainable is asked to do, read from the configuration that Ray Tune hands it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tune_interpreg import data
from tune_interpreg.config import Data, Frozen, Parameter
from tune_interpreg.data import Dataset, Split
from tune_interpreg.items import Item, Recipe
from tune_interpreg.store import Store


class Plain(Frozen):
    """The keys that a method's Trainable takes under a plain ``Tuner``, beside its own hyperparameters.

    data, model, training, attack, evaluation: as in a study file. seed: one or several.
    maps: an .npy file of raw target maps of all training images, for methods that need targets.
    test: whether to evaluate on the test split after the last epoch. device: of the training.
    """

    seed: int | tuple[int, ...] = 0
    maps: str | None = None
    test: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Job:
    """An item with the places where its results and inputs lie; without a store nothing but Tune keeps results."""

    item: Item
    device: str
    store: Store | None = None
    maps: Path | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any], method: str, parameters: Mapping[str, Parameter]) -> Job:
        """From a study's ``{item, store, device}``, or from plain hyperparameters and ``Plain``'s keys."""
        if "item" in config:
            item, store = Item.model_validate(config["item"]), Store(config["store"])
            maps = store.maps_file(item.recipe.maps.key) if item.recipe.maps else None
            return cls(item, config["device"], store, maps)
        plain = Plain.model_validate({key: config[key] for key in config.keys() & Plain.model_fields.keys()})
        params = {key: config[key] for key in config.keys() & parameters.keys()}
        setting = {key: config[key] for key in config.keys() - Plain.model_fields.keys() - parameters.keys()}
        seeds = plain.seed if isinstance(plain.seed, tuple) else (plain.seed,)
        role = "repeat" if plain.test else "search"
        item = Item(arm=method, role=role, recipe=Recipe(method=method, params=params, **setting), seeds=seeds)
        return cls(item, plain.device, maps=Path(plain.maps) if plain.maps else None)


@lru_cache(maxsize=2)
def dataset(of: Data, device: str) -> Dataset:
    """The training and validation images on ``device``; a reused worker reads them once."""
    loaded = data.load(of)
    train, validation = (
        Split(split.x_NCHW.to(device), split.y_N.to(device)) for split in (loaded.train, loaded.validation)
    )
    return Dataset(train, validation, loaded.classes, loaded.shape, loaded.fingerprint)
