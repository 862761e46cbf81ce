"""Standard training (Eq. 2)."""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.training.trainer import Batch


class StandardTrainable(MethodTrainable):
    """CE(f(x), y)."""

    has_penalty: ClassVar[bool] = False

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": F.cross_entropy(model(batch.x_BCHW), batch.y_B)}
