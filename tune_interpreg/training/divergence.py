"""Find where a training diverged: the first step with a value that is not finite, and which value it was.

A step reads no number back (see ``trainer``). An epoch that diverged is therefore repeated from its start with the
same bits, this time with a check after each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Fault:
    """step: counted from 1. description: what was not finite. detail: an addition to the message, or ""."""

    step: int
    description: str
    detail: str = ""


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all values are finite. Waits for the device once."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def find_first_fault(
    losses: Iterable[Mapping[str, Tensor]], model: nn.Module, optimizer: torch.optim.Optimizer
) -> Fault | None:
    """Train with these losses and return the first value that is not finite, or None.

    Checks per step the terms, then the gradients, then the updated weights.

    Args:
        losses: yields each step's terms, computed from ``model`` at that moment.
    """
    for step, terms in enumerate(losses, start=1):
        for name, term in terms.items():
            if not is_finite([term]):
                return Fault(step, f"the term {name} was {_first_bad_value([term])}")
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward(retain_graph=True)
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not is_finite(gradients):
            return _gradient_fault(step, terms, model, _first_bad_value(gradients))
        optimizer.step()
        for name, values in model.state_dict().items():
            if not is_finite([values]):
                return Fault(step, f"{name} was {_first_bad_value([values])} after the update")
    return None


def _gradient_fault(step: int, terms: Mapping[str, Tensor], model: nn.Module, bad_value: float) -> Fault:
    """Name the first term that has a non-finite gradient, or the loss if only the sum is not finite."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        present = [gradient for gradient in gradients if gradient is not None]
        if not is_finite(present):
            description = f"the gradient of the term {name} was {_first_bad_value(present)}"
            return Fault(step, description, f"; its value was {term.item():g}")
    return Fault(step, f"the gradient of the loss was {bad_value}", "; that of each term was finite")


def _first_bad_value(tensors: Iterable[Tensor]) -> float:
    """Return nan if any value is nan, else the first infinite value."""
    bad = torch.cat([tensor.detach()[~torch.isfinite(tensor)].flatten() for tensor in tensors])
    return float(bad[bad.isnan()][0] if bad.isnan().any() else bad[0])
