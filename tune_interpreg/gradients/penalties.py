"""Penalties on a model's Jacobian, as functions of the adjoint that `networks.linearize` returns.

Shapes: B batch, C·H·W image, K classes, P projections, R = B·K repeats. J = ∂o/∂x is the Jacobian of the output o (the
logits or the probabilities, see OUTPUTS) with respect to the pixels. g = J_c is its row of the correct label c. One
ordinary backward differentiates every penalty with respect to the parameters.

The options `norm`, `sign` and `output` are keys of PENALTY_NORMS, SIGNS and OUTPUTS; other values raise ValueError.
Norms take d of shape (B, ...) and the order p of ‖·‖_p. Of o_BK next to its adjoint, only shape, type and device
matter.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from tune_interpreg.networks.layers import Adjoint
from tune_interpreg.networks.linearize import logit_gradient, through_softmax

Entry = TypeVar("Entry")


def batch_norm(d: Tensor, order: int = 2) -> Tensor:
    """Return ‖d‖_p over the whole batch, for p = 2 the Frobenius norm; its gradient at d = 0 is 0."""
    return torch.linalg.vector_norm(d, order)


def sample_norm(d: Tensor, order: int = 2) -> Tensor:
    """Return (1/B) Σ_b ‖d_b‖_p, the mean of the samples' norms; its gradient is 0 if d_b = 0."""
    return torch.linalg.vector_norm(d.flatten(1), order, dim=1).mean()


def squared_norm(d: Tensor, order: int = 2) -> Tensor:
    """Return (1/B) Σ_b ‖d_b‖_p², the mean of the samples' squared norms."""
    return torch.linalg.vector_norm(d.flatten(1), order, dim=1).square().mean()


PENALTY_NORMS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "batch": batch_norm,
    "sample": sample_norm,
    "squared": squared_norm,
}
SIGNS: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs, "signed": lambda g: g}
OUTPUTS: dict[str, Callable[[Tensor, Adjoint], tuple[Tensor, Adjoint]]] = {
    "logits": lambda z_BK, adjoint: (z_BK, adjoint),
    "probabilities": through_softmax,
}


def select_output(z_BK: Tensor, adjoint: Adjoint, output: str) -> tuple[Tensor, Adjoint]:
    """Return the penalized output o and the adjoint e ↦ Jᵀe of its Jacobian.

    Args:
        z_BK, adjoint: the logits and their adjoint, from `networks.linearize`.
        output: "logits" for o = z, "probabilities" for o = softmax(z).
    """
    return _choose("output", output, OUTPUTS)(z_BK, adjoint)


def label_gradient(adjoint: Adjoint, y_B: Tensor, o_BK: Tensor) -> Tensor:
    """Return g_BCHW = Jᵀe_c, the gradient of each sample's output of its label c with respect to its pixels.

    Args:
        adjoint: e ↦ Jᵀe, from `select_output`.
        y_B: labels, integers in [0, K).
    """
    return adjoint(torch.zeros_like(o_BK).scatter_(1, y_B[:, None], 1.0))


def cross_entropy_gradient(adjoint: Adjoint, y_B: Tensor, z_BK: Tensor) -> Tensor:
    """Return d_BCHW = Jᵀ(softmax(z) − e_c), each sample's ∂CE/∂x (Drucker and LeCun, 1992).

    The softmax is part of the graph.

    Args:
        adjoint: e ↦ Jᵀe of the logits, from `networks.linearize`.
        y_B: labels c, integers in [0, K).
        z_BK: the logits.
    """
    return adjoint(logit_gradient(z_BK, y_B))


def magnitude(g: Tensor, *, norm: str = "batch", order: int = 2) -> Tensor:
    """Return ‖g‖_p, the size of gradients of shape (B, ...), with p = order."""
    return _choose("norm", norm, PENALTY_NORMS)(g, order)


def interpretation(target_BCHW: Tensor, g_BCHW: Tensor, *, norm: str = "batch", sign: str = "abs") -> Tensor:
    """Return ‖I − |g|‖, the distance of the saliency map from its target (Eq. 3).

    Args:
        target_BCHW: I, the thresholded maps of the teacher.
        g_BCHW: the label gradient.
        sign: "abs" for |g|, "signed" for g itself.
    """
    return magnitude(target_BCHW - _choose("sign", sign, SIGNS)(g_BCHW), norm=norm)


def cosine(target_BCHW: Tensor, g_BCHW: Tensor) -> Tensor:
    """Return 1 − (1/B) Σ_b cos(I_b, g_b), in [0, 2]; the cosine and its gradient are 0 if I_b or g_b is 0.

    Args:
        target_BCHW: I, the signed target maps.
        g_BCHW: the label gradient, signed.
    """
    cosine_B = (_direction(target_BCHW.flatten(1)) * _direction(g_BCHW.flatten(1))).sum(1)
    return 1 - cosine_B.mean()


def jacobian(adjoint: Adjoint, o_BK: Tensor, *, norm: str = "batch") -> Tensor:
    """Return the exact ‖J‖_F, the norm of the Jacobian of the whole output with respect to the pixels (Eq. 7).

    One call of the adjoint gives the K rows of each sample's J, and a sample's norm is over all of them.
    """
    batch, classes = o_BK.shape
    e_KBK = _onehots(o_BK)[:, None].expand(classes, batch, classes)
    return magnitude(adjoint(e_KBK).transpose(0, 1), norm=norm)


def repeated_jacobian(adjoint: Adjoint, o_RK: Tensor, *, norm: str = "batch") -> Tensor:
    """Return ‖J‖_F with row k of a sample's J taken at the k-th of K repeats of the sample.

    The repeats differ in their dropout masks. Without dropout this equals `jacobian`.

    Args:
        adjoint: e ↦ Jᵀe at R = B·K images, with the K repeats of a sample in a row.
    """
    repeats, classes = o_RK.shape
    j_RCHW = adjoint(_onehots(o_RK).repeat(repeats // classes, 1))
    return magnitude(j_RCHW.unflatten(0, (-1, classes)), norm=norm)


def projected_jacobian(adjoint: Adjoint, v_PBK: Tensor, *, norm: str = "batch") -> Tensor:
    """Return ‖J‖_F by random projections: ‖J_b‖² ≈ (K/P) Σ_i ‖J_bᵀv_i‖₂² (Hoffman, Roberts and Yaida, 2019).

    With unit vectors uniform on the sphere, the estimate of the squared norm is unbiased with a variance ∝ 1/P. Other
    norms of the estimate are exact only in the limit of large P.

    Args:
        adjoint: e ↦ Jᵀe, from `select_output`.
        v_PBK: P unit vectors per sample, from `unit_vectors`.
    """
    projections, _, classes = v_PBK.shape
    return magnitude(math.sqrt(classes / projections) * adjoint(v_PBK).transpose(0, 1), norm=norm)


def unit_vectors(o_BK: Tensor, projections: int, generator: torch.Generator) -> Tensor:
    """Draw v_PBK, independent and uniform on the unit sphere of R^K.

    Args:
        projections: P ≥ 1, the number per sample.
        generator: on o's device.
    """
    shape = (projections, *o_BK.shape)
    return _direction(torch.randn(shape, generator=generator, device=o_BK.device, dtype=o_BK.dtype))


def _direction(d: Tensor) -> Tensor:
    """Return d / ‖d‖₂ along the last dimension; it and its gradient are 0 if d = 0."""
    norm = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    return d / norm.masked_fill(norm == 0, math.inf)


def _onehots(o_BK: Tensor) -> Tensor:
    return torch.eye(o_BK.shape[-1], dtype=o_BK.dtype, device=o_BK.device)


def _choose(option: str, value: str, table: dict[str, Entry]) -> Entry:
    if value not in table:
        raise ValueError(f"{option} must be one of {', '.join(table)}; it is {value!r}")
    return table[value]
