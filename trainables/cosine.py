"""Interpretation regularization by direction and magnitude, as in the authors' journal version."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, OUTPUT, MethodTrainable
from trainables.interpretation import PHI, THRESHOLD, THRESHOLDS
from tune_interpreg.gradients import penalties
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class CosineTrainable(MethodTrainable):
    """CE + λ_cs·(1 − mean cos(I(x), g)) + λ_gm·‖g‖, g = J_c(x) with its sign, I(x) the teacher's signed map.

    Values of the map within φ·std of its mean are set to 0.
    """

    needs_targets = True
    signed_targets = True
    parameters = {
        "lambda_cs": Parameter(help="strength λ_cs of the batch mean of 1 − cos(I, g)", low=0),
        "lambda_gm": Parameter(help="strength λ_gm of ‖g‖", low=0),
        "phi": PHI,
        "threshold": THRESHOLD.model_copy(update={"default": "two_sided"}),
        "norm": NORM,
        "output": OUTPUT,
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert batch.target_BCHW is not None
        z_BK, adjoint = batch.linearize(model)
        o_BK, adjoint = penalties.select_output(z_BK, adjoint, self.params["output"])
        g_BCHW = penalties.label_gradient(adjoint, batch.y_B, o_BK)
        return {
            "ce": F.cross_entropy(z_BK, batch.y_B),
            "cosine": self.params["lambda_cs"] * penalties.cosine(batch.target_BCHW, g_BCHW),
            "magnitude": self.params["lambda_gm"] * penalties.magnitude(g_BCHW, norm=self.params["norm"]),
        }

    def target(self, raw_BCHW: Tensor) -> Tensor:
        return THRESHOLDS[self.params["threshold"]](raw_BCHW, self.params["phi"])
