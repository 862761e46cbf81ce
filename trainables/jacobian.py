"""Jacobian regularization (Eq. 7)."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import NORM, OUTPUT, MethodTrainable
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class JacobianTrainable(MethodTrainable):
    """CE + λ_J·‖J(x)‖_F (Eq. 7), J exact, with the dropout masks of the cross-entropy or with one mask per row."""

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "lambda_j": Parameter(help="strength λ_J of the penalty", low=0),
        "norm": NORM,
        "output": OUTPUT,
        "dropout": Parameter(
            help="dropout masks of J: shared with the cross-entropy, or independent, one per row of each sample's J",
            default="shared",
            choices=("shared", "independent"),
        ),
    }

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        z_BK, _ = batch.linearize(model)
        penalty = FORWARDS[self.params["dropout"]](model, batch, self.params["norm"], self.params["output"])
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "jacobian": self.params["lambda_j"] * penalty}


def _shared(model: nn.Module, batch: Batch, norm: str, output: str) -> Tensor:
    o_BK, adjoint = penalties.select_output(*batch.linearize(model), output)
    return penalties.jacobian(adjoint, o_BK, norm=norm)


def _independent(model: nn.Module, batch: Batch, norm: str, output: str) -> Tensor:
    """Take J from another forward with each sample repeated K times."""
    classes = batch.linearize(model)[0].shape[-1]
    z_RK, logits_adjoint = linearize(model, batch.x_BCHW.repeat_interleave(classes, dim=0))
    o_RK, adjoint = penalties.select_output(z_RK, logits_adjoint, output)
    return penalties.repeated_jacobian(adjoint, o_RK, norm=norm)


FORWARDS: dict[str, Callable[[nn.Module, Batch, str, str], Tensor]] = {"shared": _shared, "independent": _independent}
