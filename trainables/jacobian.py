"""Jacobian regularization (Eq. 7)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, OUTPUT, MethodTrainable
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import constant_statistics
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class JacobianTrainable(MethodTrainable):
    """CE + λ_J·‖J(x)‖_F (Eq. 7), J exact, with the dropout masks of the cross-entropy or with one mask per row."""

    parameters = {
        "lambda_j": Parameter(help="strength λ_J of the penalty", low=0),
        "norm": NORM,
        "output": OUTPUT,
        "dropout": Parameter(
            help="dropout masks of J: shared with the cross-entropy, or independent, one per row of each sample's J",
            default="shared",
            choices=("shared", "independent"),
        ),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, adjoint = batch.linearize(model)
        if self.params["dropout"] == "shared":
            o_BK, adjoint = penalties.select_output(z_BK, adjoint, self.params["output"])
            penalty = penalties.jacobian(adjoint, o_BK, norm=self.params["norm"])
        else:  # another forward, with each sample repeated K times
            with constant_statistics(model):
                repeated = linearize(model, batch.x_BCHW.repeat_interleave(z_BK.shape[-1], dim=0))
            o_RK, adjoint = penalties.select_output(*repeated, self.params["output"])
            penalty = penalties.repeated_jacobian(adjoint, o_RK, norm=self.params["norm"])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "jacobian": self.params["lambda_j"] * penalty}
