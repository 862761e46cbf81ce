"""Training on noisy images: the control for the noise in SmoothGrad's target maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class GaussianTrainable(MethodTrainable):
    """CE(f(x + σ·n), y), n ~ N(0, 1) for each pixel, drawn again for every batch. Noisy pixels are not clamped."""

    attacks_images = True
    parameters = {
        "sigma": Parameter(help="standard deviation σ of the noise, for pixels in [0, 1]", default=0.15, low=0),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        noise_BCHW = torch.empty_like(batch.x_BCHW).normal_(generator=batch.noise)
        return {"ce": F.cross_entropy(model(batch.x_BCHW + self.params["sigma"] * noise_BCHW), batch.y_B)}
