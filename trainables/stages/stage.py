"""The base of the stages of a study: work on trained models of its store."""

from typing import Any

from safetensors import SafetensorError
from torch import nn

from trainables.base.item_trainable import ItemTrainable
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.store.files import Damaged


class StageTrainable(ItemTrainable):
    """Base of all stages. Inputs and results are in the study's store."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        assert self.assignment.store is not None
        self.store = self.assignment.store
        self.folder = self.store.checkpoint_dir(self.item.key)

    def load_model(self, key: str, seed: int) -> nn.Module:
        """Return the model that the item ``key`` trained with this seed, on the device and in eval mode."""
        path = self.store.model_file(key, seed)
        # the seed's own network, because tensors outside of its file may depend on the seed
        model = build(self.recipe.model, self.data.shape, self.data.classes, seed, self.assignment.device)
        try:
            weights.load(model, path)
        except (FileNotFoundError, SafetensorError) as error:
            raise Damaged(path, f"is damaged: no model can be read from it ({error})") from None
        return model.eval()
