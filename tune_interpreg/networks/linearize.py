"""The adjoint e ↦ Jᵀe of a network's Jacobian: for any network, and through the softmax and the cross-entropy.

Shapes: B batch, C·H·W image, K classes; `...` any leading dimensions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tune_interpreg.networks.layers import Adjoint


def linearize(model: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
    """Return the logits z_BK = f(x) and the adjoint e ↦ Jᵀe of J = ∂f/∂x, both differentiable by the parameters.

    Calls the model's own `linearize` where it has one, and uses double backpropagation otherwise.

    Args:
        model: a network from pixels to logits. It runs in its current mode.
        x_BCHW: images, pixels in [0, 1].

    Returns:
        z_BK, and a function from e of shape (..., B, K) to Jᵀe of shape (..., B, C, H, W).
    """
    method: Callable[[Tensor], tuple[Tensor, Adjoint]] | None = getattr(model, "linearize", None)
    if method is not None:
        return method(x_BCHW)
    leaf = x_BCHW if x_BCHW.requires_grad else x_BCHW.detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
        z_BK: Tensor = model(leaf)

    def adjoint(e: Tensor) -> Tensor:
        create = torch.is_grad_enabled()
        rows = [
            torch.autograd.grad(z_BK, leaf, e_BK, retain_graph=True, create_graph=create)[0]
            for e_BK in e.reshape(-1, *z_BK.shape)
        ]
        return torch.stack(rows).view(*e.shape[:-1], *leaf.shape[1:])

    return z_BK if torch.is_grad_enabled() else z_BK.detach(), adjoint


def through_softmax(z_BK: Tensor, adjoint: Adjoint) -> tuple[Tensor, Adjoint]:
    """Return the probabilities p = softmax(z) and the adjoint e ↦ Jᵀ(diag(p) − ppᵀ)e of their Jacobian.

    Takes and returns what `linearize` returns. Derivatives by the parameters include those of p.
    """
    p_BK = z_BK.softmax(-1)
    likeliest_B1 = p_BK.argmax(-1, keepdim=True)

    def adjoint_p(e: Tensor) -> Tensor:
        # A constant shift of e changes only the rounding. With this one, 1 − p of a confident network does not vanish.
        e = e - e.gather(-1, likeliest_B1.expand(*e.shape[:-1], 1))
        return adjoint(p_BK * (e - (p_BK * e).sum(-1, keepdim=True)))

    return p_BK, adjoint_p


def logit_gradient(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return softmax(z) − onehot(y), the gradient of each sample's cross-entropy with respect to its logits.

    The label's entry is computed as −Σ_{k≠y} p_k. In float32 p_y − 1 rounds to 0 if the margin exceeds 17, and the
    label's row would drop out of the gradient of every confident sample.

    Args:
        z_BK: the logits.
        y_B: labels, integers in [0, K).
    """
    y_B1 = y_B.unsqueeze(-1)
    others_BK = z_BK.softmax(-1).scatter(-1, y_B1, 0.0)
    return others_BK.scatter(-1, y_B1, -others_BK.sum(-1, keepdim=True))
