"""Jacobian regularization by random projections (Hoffman, Roberts and Yaida, 2019)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, OUTPUT, MethodTrainable
from tune_interpreg.gradients import penalties
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class JacobianProjectionsTrainable(MethodTrainable):
    """CE + λ_J·‖J(x)‖_F, ‖J‖² estimated as (K/n)·Σ_i ‖Jᵀv_i‖² with n random unit vectors for each sample."""

    parameters = {
        "lambda_j": Parameter(help="strength λ_J of the estimated penalty", low=0),
        "projections": Parameter(help="random projections n of each sample's J", default=1, low=1, integer=True),
        "norm": NORM,
        "output": OUTPUT,
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, adjoint = batch.linearize(model)
        o_BK, adjoint = penalties.select_output(z_BK, adjoint, self.params["output"])
        v_PBK = penalties.unit_vectors(o_BK, self.params["projections"], batch.noise)
        penalty = penalties.projected_jacobian(adjoint, v_PBK, norm=self.params["norm"])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "jacobian_projections": self.params["lambda_j"] * penalty}
