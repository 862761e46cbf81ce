"""Projected gradient descent (Eq. 5 and 6) from one start: the attack of training, and compat.

Shapes: B batch, C·H·W image, K classes, A some samples of a batch. Attacks differ in start, direction and projection
(see `balls`). All lengths are in pixels, and pixels are in [0, 1]. `strict` takes the same steps.

plain, the attack of training, follows each sample's own gradient, whatever its size. compat follows the batch mean's
gradient, and divides by a norm of at least 1e-6, as the attack library behind the paper does. It weakens with the batch
size and the margin.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tune_interpreg.attacks import balls
from tune_interpreg.networks.linearize import linearize, logit_gradient
from tune_interpreg.networks.modes import constant_statistics, multiply_in
from tune_interpreg.study.config import Attack

#: Logits z_BK and the sample's labels (y_B, and others) → the ascent at the logits, e_BK.
Ascent = Callable[..., Tensor]

#: Images per forward of a model in eval mode on a CPU. The intermediate results of 500 overflow its caches and take a
#: fifth more time.
IMAGES_PER_FORWARD = 128

#: Least divisor of a sample's own gradient.
FLOOR = 1e-12


def unit_logit_gradient(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return (softmax(z) − onehot(y)) / (1 − p_y): the direction of `logit_gradient`, with a size free of the margin.

    1 − p_y ≈ e^−margin. Above a margin of 28 the cross-entropy's gradient is smaller than a floor of 1e-12, and above
    100 it is 0 in float32, so that a model with large logits would look robust. The label's entry is −1; the others are
    ≥ 0 and sum to 1.
    """
    y_B1 = y_B.unsqueeze(-1)
    return z_BK.scatter(-1, y_B1, -torch.inf).softmax(-1).scatter(-1, y_B1, -1.0)


Form = Literal["plain", "compat"]

#: By form: the ascent, and the floor under each sample's gradient norm for a batch of B.
#: compat normalizes the gradient of the batch's mean: (g/B) / max(‖g/B‖₂, 1e-6) = g / max(‖g‖₂, B·1e-6).
ASCENTS: dict[Form, Ascent] = {"plain": unit_logit_gradient, "compat": logit_gradient}
FLOORS: dict[Form, Callable[[int], float]] = {"plain": lambda batch: FLOOR, "compat": lambda batch: 1e-6 * batch}


def divergence_gradient(z_BK: Tensor, log_p_BK: Tensor) -> Tensor:
    """Return softmax(z) − p, the gradient of KL(p ‖ softmax(z)) at the logits, divided by its largest entry.

    The likeliest class's entry is minus the sum of the others, which does not round to 0 if p is confident.

    Args:
        z_BK: the logits of an iterate.
        log_p_BK: logarithms of the probabilities p.
    """
    likeliest_B1 = log_p_BK.argmax(-1, keepdim=True)
    others_BK = (z_BK.softmax(-1) - log_p_BK.exp()).scatter(-1, likeliest_B1, 0.0)
    e_BK = others_BK.scatter(-1, likeliest_B1, -others_BK.sum(-1, keepdim=True))
    return e_BK / e_BK.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(e_BK.dtype).tiny)


def perturb(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    *,
    attack: Attack,
    generator: torch.Generator,
    form: Form = "plain",
    batch: int | None = None,
) -> Tensor:
    """Return the last iterate of PGD from one random start.

    x_{t+1} = Π(x_t + step · direction(∂CE/∂x_t)) (Eq. 5, 6). Π clamps to [0, 1], projects to the ball around x, and
    clamps to [0, 1]. The model runs in its current mode, with constant running statistics. Capture-safe.

    Args:
        x_BCHW: images, pixels in [0, 1].
        y_B: labels, integers in [0, K).
        attack: norm, eps, steps, step size, direction, start and precision.
        generator: draws the start; on x's device.
        form: "plain" or "compat".
        batch: images of the batch that compat's floor is for; None: those of x.

    Returns:
        x_BCHW, pixels in [0, 1], within eps of x, without graph.
    """
    start_BCHW = balls.draw_start(x_BCHW, attack, generator)
    with constant_statistics(model):
        return perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form, batch=batch)


def perturb_from(
    model: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    start_BCHW: Tensor,
    *,
    attack: Attack,
    form: Form,
    batch: int | None = None,
) -> Tensor:
    """Return the last iterate of PGD from this start, with pixels in [0, 1] and within eps of x; see `perturb`."""
    return _ascend(model, x_BCHW, start_BCHW, y_B, ASCENTS[form], FLOORS[form](batch or len(y_B)), attack)


def perturb_output(model: nn.Module, x_BCHW: Tensor, *, attack: Attack, generator: torch.Generator) -> Tensor:
    """Return the last iterate of PGD that ascends KL(p(x) ‖ p(x_t)) instead of the cross-entropy (see `perturb`).

    It starts at x + 0.001·n, n ~ N(0, 1), because the divergence has no gradient at x (Zhang et al., 2019, arXiv
    1901.08573). The study's `attack.start` has no effect.
    """
    start_BCHW = x_BCHW + 1e-3 * torch.empty_like(x_BCHW).normal_(generator=generator)
    with constant_statistics(model):
        with torch.no_grad():
            log_p_BK = model(x_BCHW).log_softmax(-1)
        return _ascend(model, x_BCHW, start_BCHW, log_p_BK, divergence_gradient, FLOOR, attack)


@torch.no_grad()
def _ascend(
    model: nn.Module, x_BCHW: Tensor, x_t: Tensor, goal: Tensor, ascent: Ascent, floor: float, attack: Attack
) -> Tensor:
    """Return the last iterate of the attack's steps from x_t; goal: each sample's label, or log_p_BK."""
    with multiply_in(attack.precision, x_BCHW.device):
        for _ in range(attack.steps):
            x_t, _ = step(
                model, x_BCHW, x_t, (goal,), ascent=ascent, length=attack.step_length, floor=floor, attack=attack
            )
    return x_t


def step(
    model: nn.Module,
    x_BCHW: Tensor,
    x_t: Tensor,
    labels: tuple[Tensor, ...],
    *,
    ascent: Ascent,
    length: float,
    floor: float,
    attack: Attack,
) -> tuple[Tensor, Tensor]:
    """Return x_{t+1} = Π(x_t + length · direction(Jᵀe)), and the logits z_BK of x_t, with e = ascent(z, *labels).

    Args:
        x_BCHW: images, the centers of the balls.
        x_t: iterates, pixels in [0, 1] and within eps of x.
        labels: integers of shape (B,), or other tensors for the ascent with a row per sample.
        length: of the step, in the norm of the direction.
        floor: least norm that an l2 direction divides by.
    """
    z_BK, g_BCHW = _gradient(model, x_t, labels, ascent)
    moved = x_t + length * balls.direction(g_BCHW, floor, attack)
    return (x_BCHW + balls.project(moved.clamp(0.0, 1.0) - x_BCHW, attack)).clamp(0.0, 1.0), z_BK


def is_wrong(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return bool_B: the misclassified samples."""
    return z_BK.argmax(-1) != y_B


def _gradient(model: nn.Module, x_t: Tensor, labels: tuple[Tensor, ...], ascent: Ascent) -> tuple[Tensor, Tensor]:
    """Return the logits z_BK of x_t, and Jᵀe."""
    splits = not model.training and x_t.device.type == "cpu"  # in eval mode no image depends on its batch
    size = IMAGES_PER_FORWARD if splits else max(1, len(x_t))
    parts = []
    for x_A, *labels_A in zip(x_t.split(size), *(label_B.split(size) for label_B in labels), strict=True):
        z_AK, adjoint = linearize(model, x_A)
        z_AK = z_AK.to(x_A.dtype)
        parts.append((z_AK, adjoint(ascent(z_AK, *labels_A)).to(x_A.dtype)))
    if len(parts) == 1:
        return parts[0]
    z, g = zip(*parts, strict=True)
    return torch.cat(z), torch.cat(g)
