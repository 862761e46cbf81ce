"""Distillation: the student learns a teacher's probabilities (Hinton, Vinyals and Dean, 2015)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class DistillTrainable(MethodTrainable):
    """α·CE + λ·T²·mean KL(p_t ‖ p), p = softmax(z/T), p_t the same of the teacher in eval mode (arXiv 1503.02531).

    T² keeps the size of the gradient as T grows.
    """

    needs_teacher = True
    parameters = {
        "lambda_kd": Parameter(help="strength λ of the divergence from the teacher", low=0),
        "ce_weight": Parameter(help="weight α of the cross-entropy with the labels", default=1.0, low=0),
        "temperature": Parameter(help="temperature T of both softmaxes", default=4.0, low=1e-3),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, temperature = batch.linearize(model)[0], self.params["temperature"]
        log_p_BK = (z_BK / temperature).log_softmax(-1)
        log_teacher_BK = (batch.linearize_teacher()[0] / temperature).log_softmax(-1)
        divergence = F.kl_div(log_p_BK, log_teacher_BK, reduction="batchmean", log_target=True)
        return {
            "ce": self.params["ce_weight"] * F.cross_entropy(z_BK, batch.y_B),
            "distill": self.params["lambda_kd"] * temperature**2 * divergence,
        }
