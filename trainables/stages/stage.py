"""The base of the work on trained models of a study's store: maps and judgments."""

from typing import Any

from safetensors import SafetensorError
from torch import nn

from trainables.base.job_trainable import JobTrainable
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.store.files import Damaged


class StageTrainable(JobTrainable):
    """Base of maps and judgments. Inputs and results are in the study's store."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        assert self.assignment.store is not None
        self.store = self.assignment.store
        self.folder = self.store.checkpoint_dir(self.job.key)

    def load_model(self, key: str) -> nn.Module:
        """Return the model of a training, on the device and in eval mode."""
        path = self.store.model_file(key)
        # the seed's own network, because tensors outside of its file may depend on the seed
        seed = next((model.seed for model in self.job.models if model.key == key), self.job.seeds[0])
        model = build(self.recipe.model, self.data.shape, self.data.classes, seed, self.assignment.device)
        try:
            weights.load(model, path)
        except (FileNotFoundError, SafetensorError) as error:
            raise Damaged(path, f"is damaged: no model can be read from it ({error})") from None
        return model.eval()
