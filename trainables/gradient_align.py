"""Gradient alignment, which keeps one-step adversarial training from failing (Andriushchenko and Flammarion, 2020)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.attacks import balls
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import constant_statistics
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class GradientAlignTrainable(MethodTrainable):
    """CE + λ·(1 − mean cos(∇_x ℓ(x), ∇_x ℓ(x + η))), η uniform in the study's ball (arXiv 2007.02617).

    Published together with ``fast_adversarial``. With dropout, x and x + η have different masks.
    """

    parameters = {"lambda_ga": Parameter(help="strength λ of the mean of 1 − cosine", low=0)}

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, adjoint = batch.linearize(model)
        ball = self.recipe.attack.model_copy(update={"start": "ball"})
        with constant_statistics(model):
            near = linearize(model, balls.draw_start(batch.x_BCHW, ball, batch.noise))
        d_BCHW = penalties.cross_entropy_gradient(adjoint, batch.y_B, z_BK)
        near_BCHW = penalties.cross_entropy_gradient(near[1], batch.y_B, near[0])
        alignment = penalties.cosine(d_BCHW, near_BCHW)
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "gradient_align": self.params["lambda_ga"] * alignment}
