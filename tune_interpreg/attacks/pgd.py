"""Projected gradient descent, from one start or several, and its strict and compat forms (Eq. 5 and 6).

Shapes: B batch, C·H·W image, K classes, A the samples of a batch that are not yet broken.
Attacks differ only in start, direction and projection (see `balls`). All lengths are in pixels in [0, 1].
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from tune_interpreg.attacks import balls
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import multiply_in
from tune_interpreg.study.config import Attack

Form = Literal["strict", "compat"]


#: Images in one forward of a model in eval mode on a CPU: what 500 leave behind overflows its caches, at a fifth more.
AT_ONCE = 128


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
    """The last iterate of PGD from one random start.

    x_{t+1} = Π(x_t + step · direction(∂CE/∂x_t)) (Eq. 5, 6; starts and directions: see `balls`);
    Π clamps to [0, 1], then to the ball around x, then to [0, 1].
    The model runs in the mode it is in. Fixed shapes and no branch on data: a GPU can capture it.

    Args:
        x_BCHW: images, pixels in [0, 1]. y_B: labels.
        attack: norm, eps and step (pixels in [0, 1]), steps, direction, start, precision.
        generator: on x's device; the start is its only draw here.
        form: "strict" follows each sample's own gradient whatever its size, "compat" the batch mean's, floored.
    Returns: x_BCHW, pixels in [0, 1], within eps of x, without graph.
    """
    start_BCHW = balls.random_start(x_BCHW, attack, generator)
    return perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)


@torch.no_grad()
def perturb_from(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, *, attack: Attack, form: Form
) -> Tensor:
    """The last iterate of PGD from the given start.

    Args:
        start_BCHW: pixels in [0, 1], within eps of x, as `balls` makes it.
        x_BCHW, y_B, attack, form: as in `perturb`.
    Returns: x_BCHW, as `perturb` does.
    """
    x_t = start_BCHW
    with multiply_in(attack.precision, x_BCHW.device):
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
    """Which samples the attack breaks, from one random start.

    Arguments as in `perturb`; for evaluation only, with the model in eval mode (not capture-safe).
    Returns: bool_B, as `broken_from` says.
    """
    start_BCHW = balls.random_start(x_BCHW, attack, generator)
    return broken_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)


@torch.no_grad()
def broken_from(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, *, attack: Attack, form: Form
) -> Tensor:
    """Which samples PGD from the given start breaks.

    compat: the last iterate is misclassified. strict: x, the start or any iterate is.

    Args:
        x_BCHW: images, pixels in [0, 1]. y_B: labels. start_BCHW: as in `perturb_from`.
        attack, form: as in `perturb`.
    Returns: bool_B.
    """
    if form == "strict":
        return _ever_broken(model, x_BCHW, y_B, start_BCHW, attack=attack)
    x_adv_BCHW = perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form=form)
    return _missed(model(x_adv_BCHW), y_B)


def broken_by_any(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, starts: Iterable[Tensor], *, attack: Attack, form: Form
) -> Tensor:
    """Which samples PGD breaks from at least one of the starts.

    strict: each sample is attacked on its own, so that a broken one needs no further start. compat: every start
    attacks the whole batch, because a step depends on the batch.

    Args:
        starts: each a start_BCHW of the whole batch, as in `perturb_from`.
        model, x_BCHW, y_B, attack, form: as in `broken_from`.
    Returns: bool_B.
    """
    broken_B = torch.zeros_like(y_B, dtype=torch.bool)
    for start_BCHW in starts:
        rows_A = (~broken_B if form == "strict" else torch.ones_like(broken_B)).nonzero().squeeze(1)
        if len(rows_A) > 0:
            broken_B[rows_A] |= broken_from(
                model, x_BCHW[rows_A], y_B[rows_A], start_BCHW[rows_A], attack=attack, form=form
            )
    return broken_B


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
    z_BK, g_BCHW = _gradient(model, x_t, y, form)
    direction_BCHW = balls.direction(g_BCHW, FLOORS[form](len(y)), attack)
    moved = x_t + attack.step_length * direction_BCHW
    return (x + balls.project(moved.clamp(0.0, 1.0) - x, attack)).clamp(0.0, 1.0), z_BK


def _gradient(model: nn.Module, x_t: Tensor, y: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The logits z_BK of x_t, and the residual pulled back to it."""
    alone = not model.training and x_t.device.type == "cpu"  # in eval mode no image depends on its batch
    parts = []
    for x_A, y_A in zip(*(rows.split(AT_ONCE if alone else max(1, len(y))) for rows in (x_t, y)), strict=True):
        z_AK, adjoint = linearize(model, x_A)
        z_AK = z_AK.to(x_A.dtype)
        parts.append((z_AK, adjoint(RESIDUALS[form](z_AK, y_A)).to(x_A.dtype)))
    if len(parts) == 1:
        return parts[0]
    z, g = zip(*parts, strict=True)
    return torch.cat(z), torch.cat(g)


def _missed(z_BK: Tensor, y_B: Tensor) -> Tensor:
    return z_BK.argmax(-1) != y_B
