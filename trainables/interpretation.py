"""Interpretation regularization (Eq. 3): robust, permuted or non-robust, depending on the targets."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, OUTPUT, MethodTrainable
from tune_interpreg.gradients import penalties, saliency
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch

THRESHOLDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "one_sided": saliency.threshold,
    "two_sided": saliency.two_sided_threshold,
}
PHI = Parameter(help="threshold φ of the target maps, in standard deviations from the mean", default=1.0)
THRESHOLD = Parameter(
    help="values of a target map that become 0: below mean + φ·std, or within φ·std of the mean",
    default="one_sided",
    choices=tuple(THRESHOLDS),
)


class InterpretationTrainable(MethodTrainable):
    """CE + λ·‖I(x) − |g|‖ (Eq. 3), g = J_c(x), I(x) the teacher's map with values below mean + φ·std set to 0."""

    needs_targets = True
    parameters = {
        "lambda": Parameter(help="strength λ of the penalty", low=0),
        "phi": PHI,
        "threshold": THRESHOLD,
        "sign": Parameter(help="compare |g| or g with the target", default="abs", choices=("abs", "signed")),
        "norm": NORM,
        "output": OUTPUT,
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert batch.target_BCHW is not None
        z_BK, adjoint = batch.linearize(model)
        o_BK, adjoint = penalties.select_output(z_BK, adjoint, self.params["output"])
        g_BCHW = penalties.label_gradient(adjoint, batch.y_B, o_BK)
        options = {"norm": self.params["norm"], "sign": self.params["sign"]}
        penalty = penalties.interpretation(batch.target_BCHW, g_BCHW, **options)
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "interpretation": self.params["lambda"] * penalty}

    def target(self, raw_BCHW: Tensor) -> Tensor:
        return THRESHOLDS[self.params["threshold"]](raw_BCHW, self.params["phi"])
