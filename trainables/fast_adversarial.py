"""Adversarial training in one step from a random start (Wong, Rice and Kolter, 2020), in the study's norm."""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.adversarial import MODE, MODES
from trainables.base.trainable import MethodTrainable
from tune_interpreg.attacks import pgd
from tune_interpreg.study.config import Attack
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class FastAdversarialTrainable(MethodTrainable):
    """CE(f(x_adv), y), x_adv = Π(x₀ + α·ε·direction(∂CE/∂x₀)), x₀ uniform in the attack's ball around x."""

    attacks_images: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "alpha": Parameter(help="length α of the step, in radii ε of the study's attack", default=1.25, low=0),
        "mode": MODE,
    }

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        with MODES[self.params["mode"]](model):
            x_BCHW = pgd.perturb(model, batch.x_BCHW, batch.y_B, attack=self.attack, generator=batch.noise)
        return {"ce": F.cross_entropy(model(x_BCHW), batch.y_B)}

    @property
    def attack(self) -> Attack:
        """The study's attack with one step from a start in the ball."""
        study = self.recipe.attack
        one_step = {"start": "ball", "steps": 1, "step_size": self.params["alpha"] * study.eps}
        return study.model_copy(update=one_step)
