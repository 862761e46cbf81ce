"""Interpretation regularization (Eq. 3): robust, permuted or non-robust, as the targets say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base import NORM, MethodTrainable
from tune_interpreg import penalties, saliency
from tune_interpreg.models import linearize
from tune_interpreg.space import Parameter
from tune_interpreg.training import Batch


class InterpretationTrainable(MethodTrainable):
    """CE + λ·‖I(x) − |g|‖ (Eq. 3), g = J_c(x), I(x) the teacher's map with values below mean + φ·std set to 0."""

    needs_targets: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "lambda": Parameter(help="strength λ of the penalty", low=0),
        "phi": Parameter(help="threshold φ of the target maps, in standard deviations above the mean", default=1.0),
        "sign": Parameter(
            help="whether |g| or g is compared with the target", default="abs", choices=("abs", "signed")
        ),
        "norm": NORM,
    }

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        assert batch.maps_BCHW is not None
        z_BK, adjoint = linearize(model, batch.x_BCHW)
        g_BCHW = penalties.label_gradient(adjoint, batch.y_B, z_BK)
        target_BCHW = self.target(batch.maps_BCHW)
        penalty = penalties.interpretation(target_BCHW, g_BCHW, norm=self.params["norm"], sign=self.params["sign"])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "interpretation": self.params["lambda"] * penalty}

    def target(self, raw_BCHW: Tensor) -> Tensor:
        return saliency.threshold(raw_BCHW, self.params["phi"])
