"""Input gradient regularization by double backpropagation (Drucker and LeCun, 1992; Ross and Doshi-Velez, 2018)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, MethodTrainable
from tune_interpreg.gradients import penalties
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class InputGradientTrainable(MethodTrainable):
    """CE + λ_g·‖∂CE/∂x‖, each sample's gradient of its own cross-entropy."""

    parameters = {
        "lambda_g": Parameter(help="strength λ_g of the penalty", low=0),
        "norm": NORM,
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, adjoint = batch.linearize(model)
        d_BCHW = penalties.cross_entropy_gradient(adjoint, batch.y_B, z_BK)
        penalty = penalties.magnitude(d_BCHW, norm=self.params["norm"])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "input_gradient": self.params["lambda_g"] * penalty}
