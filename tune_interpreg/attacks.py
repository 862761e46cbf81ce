"""Projected gradient descent, its norms, and its strict and compat forms (Eq. 5 and 6).

Shapes: B batch, C·H·W image, K classes, A the samples of a batch that are not yet broken.
Norms differ only in direction and projection. All lengths are in pixels, and pixels are in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tune_interpreg.config import Attack
from tune_interpreg.models import linearize

Form = Literal["strict", "compat"]


@dataclass(frozen=True)
class Norm:
    """How PGD moves and stays near x under one norm.

    project(d_BCHW, eps): the point of the ball ‖d‖ ≤ eps nearest to each d.
    direction(g_BCHW, floor): the ascent step of length one; shorter where ‖g‖₂ is below the floor.
    """

    project: Callable[[Tensor, float], Tensor]
    direction: Callable[[Tensor, float], Tensor]


def l2_project(d_BCHW: Tensor, eps: float) -> Tensor:
    """d · min(1, eps / ‖d‖₂), sample by sample."""
    return d_BCHW * (eps / _length(d_BCHW).clamp(min=torch.finfo(d_BCHW.dtype).tiny)).clamp(max=1.0)


def l2_direction(g_BCHW: Tensor, floor: float) -> Tensor:
    """g / max(‖g‖₂, floor), sample by sample."""
    return g_BCHW / _length(g_BCHW).clamp(min=floor)


def linf_project(d_BCHW: Tensor, eps: float) -> Tensor:
    """Each component of d clamped to [−eps, eps]."""
    return d_BCHW.clamp(-eps, eps)


def linf_direction(g_BCHW: Tensor, floor: float) -> Tensor:
    """sign(g); a sign has no length to divide by, so the floor plays no part."""
    return g_BCHW.sign()


NORMS: dict[str, Norm] = {
    "l2": Norm(project=l2_project, direction=l2_direction),
    "linf": Norm(project=linf_project, direction=linf_direction),
}


def near_sphere(x_BCHW: Tensor, u_BCHW: Tensor, *, attack: Attack) -> Tensor:
    """PGD's start x + Π(u − x), Π the projection to the attack's ball.

    Uniform pixels u lie far from x, so the start mostly lies on the sphere of radius eps.

    Args:
        x_BCHW: images, pixels in [0, 1].
        u_BCHW: uniform noise in [0, 1], of x's shape.
        attack: norm and eps (radius, pixels in [0, 1]) are used.
    Returns: x_BCHW, pixels in [0, 1], within eps of x.
    """
    return x_BCHW + NORMS[attack.norm].project(u_BCHW - x_BCHW, attack.eps)


def residual(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """softmax(z) − onehot(y), the gradient of the summed cross-entropy by the logits.

    The label's entry is written −Σ_{k≠y} p_k: p_y − 1 would round to 0 once the margin passes 17 (float32),
    and the label's row would drop out of the gradient of every confident sample.

    Args: z_BK: logits. y_B: labels.
    Returns: e_BK, each row summing to 0.
    """
    y_B1 = y_B.unsqueeze(-1)
    others_BK = z_BK.softmax(-1).scatter(-1, y_B1, 0.0)
    return others_BK.scatter(-1, y_B1, -others_BK.sum(-1, keepdim=True))


def unit_residual(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """(softmax(z) − onehot(y)) / (1 − p_y): the same direction, but of a size that no margin takes away.

    1 − p_y ≈ e^−margin: past a margin of 28 the cross-entropy's gradient falls below a floor of 1e-12, and
    past 100 it is 0 in float32, so that a model would look robust for its large logits alone.

    Args: z_BK: logits. y_B: labels.
    Returns: e_BK, the label's entry −1, the others ≥ 0 with sum 1.
    """
    y_B1 = y_B.unsqueeze(-1)
    return z_BK.scatter(-1, y_B1, -torch.inf).softmax(-1).scatter(-1, y_B1, -1.0)


#: By form: the residual that is pulled back to the input, and the floor under each sample's gradient norm.
#: compat normalises the gradient of the batch's mean, (g/B) / max(‖g/B‖₂, 1e-6) = g / max(‖g‖₂, B·1e-6):
#: that is how its strength comes to depend on the batch size and on the margin.
RESIDUALS: dict[Form, Callable[[Tensor, Tensor], Tensor]] = {"strict": unit_residual, "compat": residual}
FLOORS: dict[Form, Callable[[int], float]] = {"strict": lambda batch: 1e-12, "compat": lambda batch: 1e-6 * batch}


def perturb(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    *,
    attack: Attack,
    generator: torch.Generator,
    form: Form = "strict",
) -> Tensor:
    """The last iterate of PGD from one start near the sphere.

    x_{t+1} = Π(x_t + step · direction(∂CE/∂x_t)) (Eq. 5, 6; direction: see `Norm`);
    Π clamps to [0, 1], then to the ball around x, then to [0, 1].
    The model runs in the mode it is in. Fixed shapes and no branch on data: a GPU can capture it.

    Args:
        x_BCHW: images, pixels in [0, 1]. y_B: labels.
        attack: norm, eps and step (pixels in [0, 1]), steps.
        generator: on x's device; the start is its only draw here.
        form: "strict" follows each sample's own gradient whatever its size, "compat" the batch mean's, floored.
    Returns: x_BCHW, pixels in [0, 1], within eps of x, without graph.
    """
    start_BCHW = near_sphere(x_BCHW, _uniform(x_BCHW, generator), attack=attack)
    return perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)


@torch.no_grad()
def perturb_from(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, *, attack: Attack, form: Form
) -> Tensor:
    """The last iterate of PGD from the given start.

    Args:
        start_BCHW: pixels in [0, 1], within eps of x, as from `near_sphere`.
        x_BCHW, y_B, attack, form: as in `perturb`.
    Returns: x_BCHW, as `perturb` does.
    """
    x_t = start_BCHW
    for _ in range(attack.steps):
        x_t, _ = _step(model, x_BCHW, y_B, x_t, attack=attack, form=form)
    return x_t


def broken(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    *,
    attack: Attack,
    form: Form,
    generator: torch.Generator,
) -> Tensor:
    """Which samples the attack breaks, from one start near the sphere.

    Arguments as in `perturb`; for evaluation only, with the model in eval mode (not capture-safe).
    Returns: bool_B, as `broken_from` says.
    """
    start_BCHW = near_sphere(x_BCHW, _uniform(x_BCHW, generator), attack=attack)
    return broken_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)


@torch.no_grad()
def broken_from(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, *, attack: Attack, form: Form
) -> Tensor:
    """Which samples PGD from the given start breaks.

    compat: the last iterate is misclassified. strict: x, the start or any iterate is.

    Args:
        x_BCHW: images, pixels in [0, 1]. y_B: labels. start_BCHW: from `near_sphere`.
        attack, form: as in `perturb`.
    Returns: bool_B.
    """
    if form == "strict":
        return _ever_broken(model, x_BCHW, y_B, start_BCHW, attack=attack)
    x_adv_BCHW = perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)
    return _missed(model(x_adv_BCHW), y_B)


def _ever_broken(model: nn.Module, x: Tensor, y: Tensor, x_t: Tensor, *, attack: Attack) -> Tensor:
    """bool_B: x or some iterate is misclassified. A broken sample takes no further steps."""
    broken_B = _missed(model(x), y)
    alive_A = torch.arange(len(y), device=y.device)
    still = ~broken_B
    for _ in range(attack.steps):
        alive_A, x, y, x_t = alive_A[still], x[still], y[still], x_t[still]
        if len(alive_A) == 0:
            return broken_B
        x_t, z_AK = _step(model, x, y, x_t, attack=attack, form="strict")
        still = ~_missed(z_AK, y)
        broken_B[alive_A] = ~still
    broken_B[alive_A[still]] = _missed(model(x_t[still]), y[still])
    return broken_B


def _step(model: nn.Module, x: Tensor, y: Tensor, x_t: Tensor, *, attack: Attack, form: Form) -> tuple[Tensor, Tensor]:
    """x_{t+1} and the logits z_BK of x_t."""
    norm = NORMS[attack.norm]
    z_BK, adjoint = linearize(model, x_t)
    direction_BCHW = norm.direction(adjoint(RESIDUALS[form](z_BK, y)), FLOORS[form](len(y)))
    moved = x_t + attack.step * direction_BCHW
    return (x + norm.project(moved.clamp(0.0, 1.0) - x, attack.eps)).clamp(0.0, 1.0), z_BK


def _missed(z_BK: Tensor, y_B: Tensor) -> Tensor:
    return z_BK.argmax(-1) != y_B


def _length(d_BCHW: Tensor) -> Tensor:
    return torch.linalg.vector_norm(d_BCHW, dim=(-3, -2, -1), keepdim=True)


def _uniform(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(x_BCHW.shape, generator=generator, device=x_BCHW.device, dtype=x_BCHW.dtype)
