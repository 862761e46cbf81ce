"""The base of the work on trained models of a study's store: maps and judgments."""

from typing import Any

from torch import nn

from trainables.base.job_trainable import JobTrainable
from trainables.base.models import load_model


class StageTrainable(JobTrainable):
    """Base of maps and judgments. Inputs and results are in the study's store."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        assert self.assignment.store is not None
        self.store = self.assignment.store
        self.folder = self.store.checkpoint_dir(self.job.key)

    def load_model(self, key: str) -> nn.Module:
        """Return the model of a training of any arm, on the device and in eval mode."""
        seed = next((model.seed for model in self.job.models if model.key == key), self.job.seeds[0])
        return load_model(self.recipe.model, seed, self.store.model_file(key), self.data, self.assignment.device)
