"""Adversarial training against PGD on the current model (Section 3.2)."""

from contextlib import nullcontext

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.attacks import pgd
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.config import Attack
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class AdversarialTrainable(MethodTrainable):
    """CE(f(x_adv), y), x_adv the last iterate of PGD (Eq. 5, 6) on the current model."""

    attacks_images = True
    parameters = {
        "mode": Parameter(
            help="mode of the attacked model: train has dropout and normalizes by the batch, eval has no dropout and"
            " normalizes by running statistics",
            default="train",
            choices=("train", "eval"),
        )
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(model(self.attacked_images(model, batch)), batch.y_B)}

    def attacked_images(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return x_BCHW after PGD on the model, in the mode that the parameter names."""
        with eval_mode(model) if self.params["mode"] == "eval" else nullcontext():
            return self.perturb(model, batch)

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return x_BCHW after the attack on the model in its current mode."""
        return pgd.perturb(model, batch.x_BCHW, batch.y_B, attack=self.attack, generator=batch.noise)

    @property
    def attack(self) -> Attack:
        """The attack on the current model."""
        return self.recipe.attack
