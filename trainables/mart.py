"""Misclassification-aware adversarial training (Wang et al., 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.adversarial import AdversarialTrainable
from tune_interpreg.networks.modes import constant_statistics
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class MartTrainable(AdversarialTrainable):
    """BCE(x′, y) + λ·mean KL(p(x) ‖ p(x′))·(1 − p_y(x)), x′ the last iterate of PGD on the cross-entropy.

    BCE = −log p_y(x′) − log(1 − max_{k≠y} p_k(x′)) is the term ``ce``. Published with the model attacked in eval mode.
    """

    parameters = {
        "lambda_mart": Parameter(help="strength λ of the weighted divergence", low=0),
        "mode": AdversarialTrainable.parameters["mode"].model_copy(update={"default": "eval"}),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        adversarial_BK = model(self.attacked_images(model, batch))
        with constant_statistics(model):
            log_p_BK = batch.linearize(model)[0].log_softmax(-1)
        log_q_BK = adversarial_BK.log_softmax(-1)
        divergence_B = F.kl_div(log_q_BK, log_p_BK, reduction="none", log_target=True).sum(-1)
        weight_B = 1 - log_p_BK.gather(-1, batch.y_B.unsqueeze(-1)).squeeze(-1).exp()
        return {
            "ce": boosted_cross_entropy(adversarial_BK, batch.y_B),
            "mart": self.params["lambda_mart"] * (divergence_B * weight_B).mean(),
        }


def boosted_cross_entropy(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return the mean of −log p_y − log(1 − max_{k≠y} p_k), p = softmax(z).

    1 − p_k is the sum of the other probabilities, so that it does not round to 0.
    """
    y_B1 = y_B.unsqueeze(-1)
    rival_B1 = z_BK.scatter(-1, y_B1, -torch.inf).argmax(-1, keepdim=True)
    others_B = z_BK.scatter(-1, rival_B1, -torch.inf).logsumexp(-1)
    return F.cross_entropy(z_BK, y_B) + (z_BK.logsumexp(-1) - others_B).mean()
