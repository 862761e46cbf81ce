"""Standard training (Eq. 2)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.training.trainer import Batch


class StandardTrainable(MethodTrainable):
    """CE(f(x), y)."""

    has_penalty = False

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(model(batch.x_BCHW), batch.y_B)}
