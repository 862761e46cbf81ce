"""TRADES: a trade-off of clean accuracy against smooth predictions (Zhang et al., 2019)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.adversarial import AdversarialTrainable
from tune_interpreg.attacks import pgd
from tune_interpreg.networks.modes import constant_statistics, dropout_drawn_from
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class TradesTrainable(AdversarialTrainable):
    """CE(f(x), y) + λ·mean KL(p(x) ‖ p(x′)), x′ the last iterate of PGD on this divergence (arXiv 1901.08573).

    Published with the model attacked in eval mode. With dropout, x and x′ have different masks.
    """

    attacks_images = False  # the cross-entropy is that of the clean images
    parameters = {
        "lambda_trades": Parameter(help="strength λ of the divergence (β in the source)", low=0),
        "mode": AdversarialTrainable.parameters["mode"].model_copy(update={"default": "eval"}),
    }

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK = batch.linearize(model)[0]
        with constant_statistics(model), dropout_drawn_from(model, batch.noise):
            log_q_BK = model(self.attacked_images(model, batch)).log_softmax(-1)
        divergence = F.kl_div(log_q_BK, z_BK.log_softmax(-1), reduction="batchmean", log_target=True)
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "trades": self.params["lambda_trades"] * divergence}

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        return pgd.perturb_output(model, batch.x_BCHW, attack=self.attack, generator=batch.noise)
