"""Jacobian regularization (Eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base import NORM, MethodTrainable
from tune_interpreg import penalties
from tune_interpreg.models import linearize
from tune_interpreg.space import Parameter
from tune_interpreg.training import Batch


class JacobianTrainable(MethodTrainable):
    """CE + λ_J·‖J(x)‖_F (Eq. 7), J of the logits, of the cross-entropy's own forward."""

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "lambda_j": Parameter(help="strength λ_J of the penalty", low=0),
        "norm": NORM,
    }

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        z_BK, adjoint = linearize(model, batch.x_BCHW)
        penalty = penalties.jacobian(adjoint, z_BK, norm=self.params["norm"])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "jacobian": self.params["lambda_j"] * penalty}
