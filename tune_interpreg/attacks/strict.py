"""The strict attack, which judges models: PGD with directions that no scale of the logits changes.

Shapes: B batch, C·H·W image, K classes, R rivals, A the samples of a batch that are not yet broken.

It depends on the attack's norm, eps, steps and start only. From each start it follows the cross-entropy of logits
divided by their own spread. What this does not break is then attacked from x, towards each of its R strongest rivals.
Each run starts with steps of eps, which shrink linearly. A sample is broken if any iterate is misclassified.

Scaling all logits changes no decision, and neither the iterates nor the result. With the logits as they are, small ones
blur the direction over all rivals, and the model looks robust. One rival at a time is the idea of MultiTargeted (Gowal
et al. 2019, arXiv 1910.09338); shrinking steps are that of APGD (Croce and Hein 2020, arXiv 2003.01690).
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from tune_interpreg.attacks import pgd
from tune_interpreg.study.config import Attack

#: Logits are divided by their spread and multiplied by this number. At 1 the direction is blurred over all rivals; far
#: above 5 it follows one rival at a time and jumps between them.
SHARPNESS = 3.0

#: Number of rivals that are attacked one by one. Together, their runs have as many steps as the run from a start.
RIVALS = 4


def softened_gradient(z_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return softmax_{k≠y}(τ·z/s) − onehot(y): along the cross-entropy's gradient for the logits τ·z/s.

    s is the mean over the classes of |z_k − mean z|, taken as a constant, and τ is `SHARPNESS`. Neither a scale nor a
    shift of z changes the result.

    Args:
        z_BK: the logits.
        y_B: labels, integers in [0, K).
    """
    centered_BK = z_BK - z_BK.mean(-1, keepdim=True)
    spread_B1 = centered_BK.abs().mean(-1, keepdim=True).clamp(min=torch.finfo(z_BK.dtype).tiny)
    return pgd.unit_logit_gradient(SHARPNESS * (centered_BK / spread_B1), y_B)


def rival_gradient(z_BK: Tensor, y_B: Tensor, rival_B: Tensor) -> Tensor:
    """Return onehot(rival) − onehot(y), the gradient of z_rival − z_y."""
    e_BK = torch.zeros_like(z_BK).scatter(-1, y_B.unsqueeze(-1), -1.0)
    return e_BK.scatter(-1, rival_B.unsqueeze(-1), 1.0)


@torch.no_grad()
def perturb(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, starts: Iterable[Tensor], *, attack: Attack
) -> tuple[Tensor, Tensor]:
    """Return x_BCHW after the attack, and bool_B: the samples that it breaks.

    Broken samples are at a misclassified iterate, which may be x itself; the others at the last one.

    Args:
        model: in eval mode.
        x_BCHW: images, pixels in [0, 1].
        y_B: labels, integers in [0, K).
        starts: start_BCHW of each run along the cross-entropy: pixels in [0, 1], within eps of x.
        attack: norm, eps and steps. A run towards a rival has steps/R steps, rounded up.
    """
    attack = attack.model_copy(update={"direction": None})  # the steepest in the norm
    z_BK = model(x_BCHW)
    x_adv, broken_B = x_BCHW.clone(), pgd.is_wrong(z_BK, y_B)

    def runs() -> Iterator[tuple[Tensor, int, pgd.Ascent, tuple[Tensor, ...]]]:
        for start_BCHW in starts:
            yield start_BCHW, attack.steps, softened_gradient, (y_B,)
        others_BK = z_BK.scatter(-1, y_B.unsqueeze(-1), -torch.inf)
        for rival_B in others_BK.topk(min(RIVALS, z_BK.shape[-1] - 1)).indices.unbind(-1):
            yield x_BCHW, math.ceil(attack.steps / RIVALS), rival_gradient, (y_B, rival_B)

    for first, steps, ascent, labels in runs():
        rows_A = (~broken_B).nonzero().squeeze(1)
        if len(rows_A) == 0:
            break
        labels_A = tuple(label_B[rows_A] for label_B in labels)
        x_adv[rows_A], broken_B[rows_A] = _climb(
            model, x_BCHW[rows_A], first[rows_A], labels_A, ascent=ascent, steps=steps, attack=attack
        )
    return x_adv, broken_B


def _climb(
    model: nn.Module,
    x: Tensor,
    x_t: Tensor,
    labels: tuple[Tensor, ...],
    *,
    ascent: pgd.Ascent,
    steps: int,
    attack: Attack,
) -> tuple[Tensor, Tensor]:
    """Return the first misclassified iterate of each sample, or else the last one, and which are misclassified."""
    x_adv, broken_B = x_t.clone(), torch.zeros_like(labels[0], dtype=torch.bool)
    rows_A = torch.arange(len(x), device=x.device)
    for t in range(steps):
        length = attack.eps * (1 - t / steps)
        x_next, z_AK = pgd.step(model, x, x_t, labels, ascent=ascent, length=length, floor=pgd.FLOOR, attack=attack)
        wrong_A = pgd.is_wrong(z_AK, labels[0])
        x_adv[rows_A], broken_B[rows_A] = x_t, wrong_A
        rows_A, x, x_t = rows_A[~wrong_A], x[~wrong_A], x_next[~wrong_A]
        labels = tuple(label_A[~wrong_A] for label_A in labels)
        if len(rows_A) == 0:
            return x_adv, broken_B
    x_adv[rows_A], broken_B[rows_A] = x_t, pgd.is_wrong(model(x_t), labels[0])
    return x_adv, broken_B
