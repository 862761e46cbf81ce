"""The attack of the evaluation in its two forms: strict, and compat as in the paper."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from tune_interpreg.attacks import pgd, strict
from tune_interpreg.study.config import Attack

Form = Literal["strict", "compat"]


def find_broken(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, starts: Iterable[Tensor], *, attack: Attack, form: Form
) -> Tensor:
    """Return bool_B: the samples that the attack breaks from at least one of the starts.

    strict: x or any iterate is misclassified (see `strict`). compat: the last iterate is misclassified. compat attacks
    the whole batch from every start, because its steps depend on the batch.

    Args:
        model: in eval mode.
        x_BCHW: images, pixels in [0, 1].
        y_B: labels, integers in [0, K).
        starts: start_BCHW, pixels in [0, 1], within eps of x.
    """
    if form == "strict":
        return strict.perturb(model, x_BCHW, y_B, starts, attack=attack)[1]
    broken_B = torch.zeros_like(y_B, dtype=torch.bool)
    with torch.no_grad():
        for start_BCHW in starts:
            last_BCHW = pgd.perturb_from(model, x_BCHW, y_B, start_BCHW, attack=attack, form="compat")
            broken_B |= pgd.is_wrong(model(last_BCHW), y_B)
    return broken_B
