"""The base of the work on trained models of a study's store: maps and judgments."""

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trainables.base.job_trainable import JobTrainable
from tune_interpreg import seeding
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
        path, device = self.store.model_file(key), self.assignment.device
        try:
            weights = load_file(path, device=device)
        except (FileNotFoundError, SafetensorError) as error:
            raise Damaged(path, f"is damaged: no model can be read from it ({error})") from None
        model = build(self.recipe.model, self.data.shape, self.data.classes, seeding.generator(0, "init"))
        model.to(device).eval().load_state_dict(weights)
        return model
