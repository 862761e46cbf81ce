"""Adversarial training against PGD on the current model (Section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base import MethodTrainable
from tune_interpreg import attacks
from tune_interpreg.training import Batch


class AdversarialTrainable(MethodTrainable):
    """CE(f(x_adv), y), x_adv the last iterate of PGD (Eq. 5, 6) on the model as it trains, dropout on."""

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        x_BCHW = attacks.perturb(model, batch.x_BCHW, batch.y_B, attack=self.recipe.attack, generator=batch.noise)
        return {"ce": F.cross_entropy(model(x_BCHW), batch.y_B)}
