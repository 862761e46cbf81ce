"""Find where a training diverged: the first step with a value that is not finite, and which value it was.

A step reads no number back (see ``trainer``). An epoch that diverged is therefore repeated from its start with the
same bits, this time with a check after each step.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from tune_interpreg.networks.weights import named_tensors
from tune_interpreg.training.optimizer import Optimizer


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all values are finite. Waits for the device once."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def find_first_fault(
    losses: Iterable[Mapping[str, Tensor]],
    model: nn.Module,
    optimizer: Optimizer,
    *,
    except_for: Collection[str] = (),
) -> tuple[int, str] | None:
    """Train with these losses and return the first step, counted from 1, with a value that is not finite, or None.

    Checks per step the terms, then the gradients, then the updated weights.

    Args:
        losses: yields each step's terms, computed from ``model`` at that moment.
        except_for: names of weights and buffers that need not be finite.
    Returns: (step, description of the value).
    """
    for step, terms in enumerate(losses, start=1):
        for name, term in terms.items():
            if not is_finite([term]):
                return step, f"the term {name} was {_first_bad_value([term])}"
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward(retain_graph=True)
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not is_finite(gradients):
            return step, _describe_gradient(terms, model, gradients)
        optimizer.step()
        for name, values in named_tensors(model):
            if name not in except_for and not is_finite([values]):
                return step, f"{name} was {_first_bad_value([values])} after the update"
    return None


def _describe_gradient(terms: Mapping[str, Tensor], model: nn.Module, gradients: Iterable[Tensor]) -> str:
    """Name the first term that has a non-finite gradient, or the loss if only the sum is not finite."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for name, term in terms.items():
        if term.requires_grad:
            present = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
            if not is_finite(present):
                return f"the gradient of the term {name} = {term.item():g} was {_first_bad_value(present)}"
    return f"the gradient of the loss, but of no single term, was {_first_bad_value(gradients)}"


def _first_bad_value(tensors: Iterable[Tensor]) -> float:
    """Return nan if any value is nan, else the first infinite value."""
    bad = [value for tensor in tensors for value in tensor.detach()[~torch.isfinite(tensor)].tolist()]
    return next((value for value in bad if math.isnan(value)), bad[0])
