"""Input gradients matched to a teacher's, KDIGA (Shao et al., 2021)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, MethodTrainable
from tune_interpreg.gradients import penalties
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class GradientMatchTrainable(MethodTrainable):
    """CE + λ·‖∇ℓ(x) − ∇ℓ_t(x)‖², ℓ each sample's cross-entropy, ℓ_t that of the teacher (arXiv 2110.12072).

    Published together with distillation: ``distill + gradient_match``.
    """

    needs_teacher = True
    parameters = {
        "lambda_match": Parameter(help="strength λ of the distance from the teacher's gradient", low=0),
        "norm": NORM.model_copy(update={"default": "squared"}),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, adjoint = batch.linearize(model)
        z_teacher_BK, adjoint_teacher = batch.linearize_teacher()
        d_BCHW = penalties.cross_entropy_gradient(adjoint, batch.y_B, z_BK)
        target_BCHW = penalties.cross_entropy_gradient(adjoint_teacher, batch.y_B, z_teacher_BK)
        penalty = penalties.magnitude(d_BCHW - target_BCHW, norm=self.params["norm"])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "gradient_match": self.params["lambda_match"] * penalty}
