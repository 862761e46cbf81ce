"""Input gradient regularization by double backpropagation (Drucker and LeCun, 1992; Ross and Doshi-Velez, 2018)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, MethodTrainable
from tune_interpreg.gradients import penalties
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch

ORDERS = {"l1": 1, "l2": 2}


class InputGradientTrainable(MethodTrainable):
    """CE + λ_g·‖∂CE/∂x‖_p, each sample's gradient of its own cross-entropy.

    p = 1 is the dual norm of l∞, the first-order loss of an attack of radius λ_g under l∞; p = 2 is that of l2.
    """

    parameters = {
        "lambda_g": Parameter(help="strength λ_g of the penalty", low=0),
        "norm": NORM,
        "dual": Parameter(
            help="norm of the gradient: l1 against l∞, l2 against l2", default="l2", choices=tuple(ORDERS)
        ),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, adjoint = batch.linearize(model)
        d_BCHW = penalties.cross_entropy_gradient(adjoint, batch.y_B, z_BK)
        penalty = penalties.magnitude(d_BCHW, norm=self.params["norm"], order=ORDERS[self.params["dual"]])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "input_gradient": self.params["lambda_g"] * penalty}
