"""Where a training diverged: the first step at which a number was not finite, and which one it was.

A step looks at no number (see ``training``). So an epoch that went wrong is trained again from its start, with the
same bits, and this time every step is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Fault:
    """step: counts from 1. what: a sentence without its place. beside: what else is to be said, or nothing."""

    step: int
    what: str
    beside: str = ""


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are finite numbers; reads one number back."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def first_fault(
    losses: Iterable[Mapping[str, Tensor]], model: nn.Module, optimizer: torch.optim.Optimizer
) -> Fault | None:
    """Train with these losses, and find the first value of a term, else gradient, else weight that is not finite.

    losses: for each step its terms, made of ``model`` when they are asked for. None where all stayed finite.
    """
    for step, terms in enumerate(losses, start=1):
        for name, term in terms.items():
            if not is_finite([term]):
                return Fault(step, f"the term {name} was {_worst([term])}")
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward(retain_graph=True)
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not is_finite(gradients):
            return Fault(step, *_of_gradient(terms, model, _worst(gradients)))
        optimizer.step()
        for name, values in model.state_dict().items():
            if not is_finite([values]):
                return Fault(step, f"{name} was {_worst([values])} after the update")
    return None


def _of_gradient(terms: Mapping[str, Tensor], model: nn.Module, worst: float) -> tuple[str, str]:
    """The first term whose own gradient is not finite, and its value; or the loss, where only their sum is not."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        own = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        found = [gradient for gradient in own if gradient is not None]
        if not is_finite(found):
            return f"the gradient of the term {name} was {_worst(found)}", f"; its value was {term.item():g}"
    return f"the gradient of the loss was {worst}", "; that of each term was finite"


def _worst(tensors: Iterable[Tensor]) -> float:
    """nan where a value is, else the first infinite one."""
    wrong = torch.cat([tensor.detach()[~torch.isfinite(tensor)].flatten() for tensor in tensors])
    return float(wrong[wrong.isnan()][0] if wrong.isnan().any() else wrong[0])
