"""Penalties on a model's Jacobian, as functions of the adjoint that `models.linearize` returns.

Shapes: B batch, C·H·W image, K classes. J = ∂f/∂x, g = J_c its row of the correct label c.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from tune_interpreg.layers import Adjoint

Entry = TypeVar("Entry")


def batch_norm(d: Tensor) -> Tensor:
    """Return ‖d‖ = √Σ d², the Frobenius norm over the whole batch; its gradient at d = 0 is 0.

    Args:
        d: shape (B, ...).
    """
    norm: Tensor = torch.linalg.vector_norm(d)
    return norm


def sample_norm(d: Tensor) -> Tensor:
    """Return (1/B) Σ_b ‖d_b‖₂, the mean of the samples' norms; its gradient where d_b = 0 is 0.

    Args:
        d: shape (B, ...).
    """
    norm_B: Tensor = torch.linalg.vector_norm(d, dim=tuple(range(1, d.dim())))
    return norm_B.mean()


def squared_norm(d: Tensor) -> Tensor:
    """Return (1/B) Σ_b ‖d_b‖₂², the mean of the samples' squared norms.

    Args:
        d: shape (B, ...).
    """
    return d.square().sum() / len(d)


PENALTY_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": batch_norm,
    "sample": sample_norm,
    "squared": squared_norm,
}
SIGNS: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs, "signed": lambda g: g}


def label_gradient(adjoint: Adjoint, y_B: Tensor, z_BK: Tensor) -> Tensor:
    """Return g_BCHW = Jᵀe_c, the gradient of each sample's logit of its label c with respect to its pixels.

    Args:
        adjoint: e ↦ Jᵀe, from `models.linearize`.
        y_B: labels, integers in [0, K).
        z_BK: the logits; only their shape, type and device matter.
    """
    return adjoint(torch.zeros_like(z_BK).scatter_(1, y_B[:, None], 1.0))


def interpretation(target_BCHW: Tensor, g_BCHW: Tensor, *, norm: str = "batch", sign: str = "abs") -> Tensor:
    """Return ‖I − |g|‖, the distance of the saliency map from its target (Eq. 3).

    Args:
        target_BCHW: I, the thresholded maps of the teacher.
        g_BCHW: the label gradient, logits per pixel value.
        norm: a key of PENALTY_NORMS.
        sign: "abs" for |g|, "signed" for g itself.

    Raises:
        ValueError: an unknown norm or sign.
    """
    distance = _choose("norm", norm, PENALTY_NORMS)
    return distance(target_BCHW - _choose("sign", sign, SIGNS)(g_BCHW))


def jacobian(adjoint: Adjoint, z_BK: Tensor, *, norm: str = "batch") -> Tensor:
    """Return ‖J‖_F, the norm of the Jacobian of all logits with respect to the pixels (Eq. 7), exactly.

    The K rows of each sample's J are the adjoint of the K one-hots, all in one call; a sample's norm is
    taken over K, C, H and W together.

    Args:
        adjoint: e ↦ Jᵀe, from `models.linearize`.
        z_BK: the logits; only their shape, type and device matter.
        norm: a key of PENALTY_NORMS.

    Raises:
        ValueError: an unknown norm.
    """
    size = _choose("norm", norm, PENALTY_NORMS)
    batch, classes = z_BK.shape
    e_KBK = torch.eye(classes, dtype=z_BK.dtype, device=z_BK.device)[:, None].expand(classes, batch, classes)
    return size(adjoint(e_KBK).transpose(0, 1))


def _choose(option: str, value: str, table: dict[str, Entry]) -> Entry:
    if value not in table:
        raise ValueError(f"{option} must be one of {', '.join(table)}; it is {value!r}")
    return table[value]
