"""Curvature regularization, CURE (Moosavi-Dezfooli et al., 2019)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, MethodTrainable
from tune_interpreg.attacks import balls, pgd
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class CurvatureTrainable(MethodTrainable):
    """CE + λ·‖∇ℓ(x + h_e·u) − ∇ℓ(x)‖², u = sign ∇ℓ(x)/‖sign ∇ℓ(x)‖₂ per sample, without gradient through u.

    ℓ is each sample's cross-entropy. In epoch e = 1, 2, … the step is h_e = h·min(1, e/ramp). Both gradients are those
    in eval mode, as in the authors' code (arXiv 1811.09716).
    """

    parameters = {
        "lambda_cure": Parameter(help="strength λ of the penalty (γ in the source)", low=0),
        "h": Parameter(help="length h of the step in l2, for pixels in [0, 1]", default=1.5, low=1e-6),
        "ramp": Parameter(help="epochs in which the step grows to h", default=5, low=1, integer=True),
        "norm": NORM.model_copy(update={"default": "squared"}),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        h = self.params["h"] * ((batch.epoch + 1) / self.params["ramp"]).clamp(max=1)
        with eval_mode(model):
            d_BCHW = self._gradient(model, batch.x_BCHW, batch.y_B)
            u_BCHW = balls.l2_direction(d_BCHW.detach().sign(), pgd.FLOOR)
            far_BCHW = self._gradient(model, batch.x_BCHW + h * u_BCHW, batch.y_B)
        penalty = penalties.magnitude(far_BCHW - d_BCHW, norm=self.params["norm"])
        ce = F.cross_entropy(batch.linearize(model)[0], batch.y_B)
        return {"ce": ce, "curvature": self.params["lambda_cure"] * penalty}

    def _gradient(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        z_BK, adjoint = linearize(model, x_BCHW)
        return penalties.cross_entropy_gradient(adjoint, y_B, z_BK)
