"""Perceptually aligned gradients without a teacher (Ganz, Kawar and Elad, 2022, arXiv 2207.11378)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.data.dataset import to_pixels
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.linearize import logit_gradient
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch

#: Training images among which the nearest of each class is looked for, a stratified subset.
POOL = 1000


class AlignedTrainable(MethodTrainable):
    """CE + λ·(1 − mean cos(∇_x log p_k, t_k − x)), t_k the mean image of class k, or its image nearest to x.

    The mean is over images and classes k. Only the direction of the gradient is penalized, not its size. Shapes: B
    batch, P classes per image, K classes, M images of the pool.
    """

    parameters = {
        "lambda_pag": Parameter(help="strength λ of the mean of 1 − cosine", low=0),
        "towards": Parameter(
            help="what a class's gradient points to: the class's mean image, or its image nearest to x",
            default="mean",
            choices=("mean", "nearest"),
        ),
        "classes": Parameter(help="classes drawn for each image in each step; 0: all", default=0, low=0, integer=True),
    }

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        train, classes = self.data.train, range(self.data.classes)
        pool = train.subset(min(POOL, len(train)), "aligned")
        self._pool_MCHW, self._pool_M = to_pixels(pool.x_NCHW), pool.y_N
        if short := [k for k in classes if int((pool.y_N == k).sum()) < 2]:
            raise ValueError(f"aligned: needs 2 training images of each class; raise data.train_limit for {short}")
        self.means_KCHW = torch.stack([to_pixels(train.x_NCHW[train.y_N == k]).mean(0) for k in classes])

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z_BK, adjoint = batch.linearize(model)
        class_PB = self._choose_classes(z_BK, batch.noise)
        g_PBCHW = adjoint(-logit_gradient(z_BK.expand(len(class_PB), -1, -1), class_PB))  # ∇ log p_k
        t_PBCHW = self._images_of(class_PB, batch.x_BCHW) - batch.x_BCHW
        distance = penalties.cosine(t_PBCHW.flatten(0, 1), g_PBCHW.flatten(0, 1))
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "aligned": self.params["lambda_pag"] * distance}

    def _choose_classes(self, z_BK: Tensor, generator: torch.Generator) -> Tensor:
        """Return class_PB: all classes for each image, or as many as the parameter says, drawn without replacement."""
        batch, classes = z_BK.shape
        if not 0 < self.params["classes"] < classes:
            return torch.arange(classes, device=z_BK.device).unsqueeze(1).expand(classes, batch)
        order_BK = torch.rand(batch, classes, generator=generator, device=z_BK.device).argsort(1)
        return order_BK[:, : self.params["classes"]].t()

    def _images_of(self, class_PB: Tensor, x_BCHW: Tensor) -> Tensor:
        """Return t_PBCHW, the image that stands for each class."""
        if self.params["towards"] == "mean":
            return self.means_KCHW[class_PB].to(x_BCHW.dtype)
        # Exact distances, because x itself may be in the pool, at distance 0, and is no neighbour.
        exact = "donot_use_mm_for_euclid_dist"
        d_BM = torch.cdist(x_BCHW.flatten(1).float(), self._pool_MCHW.flatten(1), compute_mode=exact)
        is_candidate_PBM = (self._pool_M == class_PB.unsqueeze(-1)) & (d_BM > 0)
        nearest_PB = torch.where(is_candidate_PBM, d_BM, torch.inf).argmin(-1)
        return self._pool_MCHW[nearest_PB].to(x_BCHW.dtype)
