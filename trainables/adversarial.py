"""Adversarial training against PGD on the current model (Section 3.2)."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.attacks import pgd
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch

#: Context of the attack, by the model's mode.
MODES: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {"train": nullcontext, "eval": eval_mode}
MODE = Parameter(
    help="mode of the model while it is attacked: train keeps dropout on, eval turns it off",
    default="train",
    choices=tuple(MODES),
)


class AdversarialTrainable(MethodTrainable):
    """CE(f(x_adv), y), x_adv the last iterate of PGD (Eq. 5, 6) on the current model."""

    attacks_images: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, Parameter]] = {"mode": MODE}

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        with MODES[self.params["mode"]](model):
            x_BCHW = pgd.perturb(model, batch.x_BCHW, batch.y_B, attack=self.recipe.attack, generator=batch.noise)
        return {"ce": F.cross_entropy(model(x_BCHW), batch.y_B)}
