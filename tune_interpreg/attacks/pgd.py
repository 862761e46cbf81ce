"""Projected gradient descent (Eq. 5 and 6), from one start or several, in a strict and a compat form.

Shapes: B batch, C·H·W image, K classes, A the samples of a batch that are not yet broken. Attacks differ in start,
direction and projection (see `balls`). All lengths are in pixels, and pixels are in [0, 1].

strict follows each sample's own gradient, whatever its size. compat follows the batch mean's gradient, and divides by a
norm of at least 1e-6, as the attack library behind the paper does. It weakens with the batch size and the margin.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from tune_interpreg.attacks import balls
from tune_interpreg.networks.linearize import linearize, logit_gradient
from tune_interpreg.networks.modes import constant_statistics, multiply_in
from tune_interpreg.study.config import Attack

Form = Literal["strict", "compat"]

#: Images per forward of a model in eval mode on a CPU. The intermediate results of 500 overflow its caches and take a
#: fifth more time.
IMAGES_PER_FORWARD = 128


def unit_logit_gradient(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return (softmax(z) − onehot(y)) / (1 − p_y): the direction of `logit_gradient`, with a size free of the margin.

    1 − p_y ≈ e^−margin. Above a margin of 28 the cross-entropy's gradient is smaller than a floor of 1e-12, and above
    100 it is 0 in float32, so that a model with large logits would look robust. The label's entry is −1; the others are
    ≥ 0 and sum to 1.
    """
    y_B1 = y_B.unsqueeze(-1)
    return z_BK.scatter(-1, y_B1, -torch.inf).softmax(-1).scatter(-1, y_B1, -1.0)


#: By form: the gradient at the logits, and the floor under each sample's gradient norm for a batch of B.
#: compat normalizes the gradient of the batch's mean: (g/B) / max(‖g/B‖₂, 1e-6) = g / max(‖g‖₂, B·1e-6).
LOGIT_GRADIENTS: dict[Form, Callable[[Tensor, Tensor], Tensor]] = {
    "strict": unit_logit_gradient,
    "compat": logit_gradient,
}
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
    """Return the last iterate of PGD from one random start.

    x_{t+1} = Π(x_t + step · direction(∂CE/∂x_t)) (Eq. 5, 6). Π clamps to [0, 1], projects to the ball around x, and
    clamps to [0, 1]. The model runs in its current mode, with constant running statistics. Capture-safe.

    Args:
        x_BCHW: images, pixels in [0, 1].
        y_B: labels, integers in [0, K).
        attack: norm, eps, steps, step size, direction, start and precision.
        generator: draws the start; on x's device.
        form: "strict" or "compat".

    Returns:
        x_BCHW, pixels in [0, 1], within eps of x, without graph.
    """
    start_BCHW = balls.draw_start(x_BCHW, attack, generator)
    with constant_statistics(model):
        return perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)


@torch.no_grad()
def perturb_from(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, *, attack: Attack, form: Form
) -> Tensor:
    """Return the last iterate of PGD from this start, with pixels in [0, 1] and within eps of x; see `perturb`."""
    x_t = start_BCHW
    with multiply_in(attack.precision, x_BCHW.device):
        for _ in range(attack.steps):
            x_t, _ = _step(model, x_BCHW, y_B, x_t, attack=attack, form=form)
    return x_t


@torch.no_grad()
def find_broken(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, *, attack: Attack, form: Form
) -> Tensor:
    """Return bool_B: the samples that PGD from this start breaks.

    compat: those with a misclassified last iterate. strict: those with x, the start or any iterate misclassified.

    Args:
        model: in eval mode.
        x_BCHW, y_B, start_BCHW, attack, form: as in `perturb_from`.
    """
    if form == "strict":
        return _find_ever_broken(model, x_BCHW, y_B, start_BCHW, attack=attack)
    return _is_wrong(model(perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)), y_B)


def find_broken_by_any(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, starts: Iterable[Tensor], *, attack: Attack, form: Form
) -> Tensor:
    """Return bool_B: the samples that PGD breaks from at least one of the starts, each for the whole batch.

    strict attacks each sample on its own, so a broken one needs no further start. compat attacks the whole batch from
    every start, because its steps depend on the batch. The other arguments are those of `find_broken`.
    """
    broken_B = torch.zeros_like(y_B, dtype=torch.bool)
    for start_BCHW in starts:
        rows_A = (~broken_B if form == "strict" else torch.ones_like(broken_B)).nonzero().squeeze(1)
        if len(rows_A) > 0:
            broken_B[rows_A] |= find_broken(
                model, x_BCHW[rows_A], y_B[rows_A], start_BCHW[rows_A], attack=attack, form=form
            )
    return broken_B


def _find_ever_broken(model: nn.Module, x: Tensor, y: Tensor, x_t: Tensor, *, attack: Attack) -> Tensor:
    """Return bool_B: x or some iterate is misclassified. A broken sample takes no further steps."""
    broken_B = _is_wrong(model(x), y)
    rows_A = torch.arange(len(y), device=y.device)
    unbroken = ~broken_B
    for _ in range(attack.steps):
        rows_A, x, y, x_t = rows_A[unbroken], x[unbroken], y[unbroken], x_t[unbroken]
        if len(rows_A) == 0:
            return broken_B
        x_t, z_AK = _step(model, x, y, x_t, attack=attack, form="strict")
        unbroken = ~_is_wrong(z_AK, y)
        broken_B[rows_A] = ~unbroken
    broken_B[rows_A[unbroken]] = _is_wrong(model(x_t[unbroken]), y[unbroken])
    return broken_B


def _step(model: nn.Module, x: Tensor, y: Tensor, x_t: Tensor, *, attack: Attack, form: Form) -> tuple[Tensor, Tensor]:
    """Return x_{t+1} and the logits z_BK of x_t."""
    z_BK, g_BCHW = _gradient(model, x_t, y, form)
    direction_BCHW = balls.direction(g_BCHW, FLOORS[form](len(y)), attack)
    moved = x_t + attack.step_length * direction_BCHW
    return (x + balls.project(moved.clamp(0.0, 1.0) - x, attack)).clamp(0.0, 1.0), z_BK


def _gradient(model: nn.Module, x_t: Tensor, y: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Return the logits z_BK of x_t, and the adjoint of the gradient at the logits."""
    splits = not model.training and x_t.device.type == "cpu"  # in eval mode no image depends on its batch
    size = IMAGES_PER_FORWARD if splits else max(1, len(y))
    parts = []
    for x_A, y_A in zip(x_t.split(size), y.split(size), strict=True):
        z_AK, adjoint = linearize(model, x_A)
        z_AK = z_AK.to(x_A.dtype)
        parts.append((z_AK, adjoint(LOGIT_GRADIENTS[form](z_AK, y_A)).to(x_A.dtype)))
    if len(parts) == 1:
        return parts[0]
    z, g = zip(*parts, strict=True)
    return torch.cat(z), torch.cat(g)


def _is_wrong(z_BK: Tensor, y_B: Tensor) -> Tensor:
    return z_BK.argmax(-1) != y_B
